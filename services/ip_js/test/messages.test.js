import assert from "node:assert/strict";
import { test } from "node:test";

import { encode } from "@msgpack/msgpack";

import { HELLO, MAX_BATCH, SCHEMA, SEGMENT, decodeBatch, encodeBatch, pack, unpack } from "../messages.js";

const BIG = { useBigInt64: true };
const FOUR = Buffer.from([10, 0, 0, 1]);
const ROW = [SEGMENT, 1, 6, FOUR, FOUR, 0, 64, 0, Buffer.from("segment")];

test("a batch comes back as it was", () => {
  const hello = { kind: HELLO, trace: (1n << 64n) - 1n, role: "ip", generation: 1n << 63n,
    reply: 1 };
  const { messages, errors } = decodeBatch(encodeBatch([hello, hello]));
  assert.deepEqual(messages, [hello, hello]);
  assert.deepEqual(errors, []);
});

test("small numbers may be written long", () => {
  const row = ROW.map((value) => (typeof value === "number" && value !== SEGMENT
    ? BigInt(value) : value));
  const { messages } = decodeBatch(encode([SCHEMA, row], BIG));
  assert.equal(messages[0].protocol, 6);
  assert.equal(messages[0].ttl, 64);
});

test("every byte string is a batch or is refused, and none throws", () => {
  const good = encode([SCHEMA, ROW, [HELLO, 0, "tcp", 7, 0]], BIG);
  for (let at = 0; at < good.length; at += 1) {
    for (const bits of [1, 0x80, 0xff]) {
      const damaged = Buffer.from(good);
      damaged[at] ^= bits;
      const { messages, errors } = decodeBatch(damaged);
      assert.ok(messages.length + errors.length <= 100);
    }
    assert.equal(decodeBatch(good.subarray(0, at)).messages.length, 0);
  }
});

test("a batch that is too long is not even read", () => {
  assert.deepEqual(decodeBatch(new Uint8Array(MAX_BATCH + 1)).errors, ["batch_too_long"]);
});

test("whole numbers stay whole above 32 bits", () => {
  const packed = pack({ a: 2 ** 40, b: [1n << 63n], c: "x", d: 0 });
  assert.deepEqual(unpack(packed), { a: 1n << 40n, b: [1n << 63n], c: "x", d: 0n });
});
