import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import { test } from "node:test";

import { LabClock, crc32 } from "../clock.js";

const MS = 1_000_000n;

function clock(t, start = 1_000_000_000n) {
  const directory = fs.mkdtempSync(`${os.tmpdir()}/plywire-clock-`);
  const real = { now: start };
  const made = new LabClock(directory, () => real.now);
  t.after(() => {
    made.close();
    fs.rmSync(directory, { recursive: true });
  });
  return { made, real, directory };
}

test("the CRC-32 of the nine digits", () => {
  assert.equal(crc32(Buffer.from("123456789")), 0xcbf43926);
});

test("without a change lab time is the machine's", (t) => {
  const { made, real } = clock(t);
  assert.equal(made.now(), 1e9);
  real.now += 5n * MS;
  assert.equal(made.now(), 1.005e9);
  assert.equal(made.until(1.007e9), 2);
});

test("a paused clock stands still, and no timer comes", (t) => {
  const { made, real } = clock(t);
  made.ask("adopt", ...made.ask("plan", 0, 1));
  real.now += 49n * MS;
  assert.equal(made.now(), 1.049e9); // it counts 50 ms ahead
  assert.equal(made.until(1.0495e9), 1);
  real.now += 500n * MS;
  assert.equal(made.now(), 1.05e9);
  assert.equal(made.until(2e9), null);
});

test("a slow clock, and one that is resumed, never goes back", (t) => {
  const { made, real } = clock(t);
  let before = made.now();
  for (const [num, den] of [[1, 3], [0, 1], [1, 1]]) {
    made.ask("adopt", ...made.ask("plan", num, den));
    for (let step = 0; step < 30; step += 1) {
      real.now += 7n * MS;
      assert.ok(made.now() >= before);
      before = made.now();
    }
  }
  assert.equal(made.ask().num, 1n);
  assert.ok(before < Number(real.now));
});

test("another process's change is seen, a torn one is not", (t) => {
  const { made, real, directory } = clock(t);
  const other = new LabClock(directory, () => real.now);
  other.ask("adopt", ...other.ask("plan", 0, 1));
  other.close();
  const file = `${directory}/clock`;
  const whole = fs.readFileSync(file);
  const torn = Buffer.from(whole);
  torn[9] ^= 1;
  fs.writeFileSync(file, torn);
  made.look();
  assert.equal(made.ask().num, 1n);
  fs.writeFileSync(file, whole);
  assert.equal(made.ask().num, 0n);
});

test("a change that cannot be, or comes too late, is refused", (t) => {
  const { made, real } = clock(t);
  const plan = made.ask("plan", 1, 2);
  assert.throws(() => made.ask("plan", 1, 0), RangeError);
  assert.throws(() => made.ask("adopt", 1, 2), RangeError);
  assert.throws(() => made.ask("adopt", ...plan.slice(0, 7), 0n), RangeError);
  real.now += 60n * MS;
  assert.throws(() => made.ask("adopt", ...plan), /the change comes too late/);
  assert.throws(() => made.ask("nothing"), RangeError);
});
