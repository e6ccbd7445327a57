/**
 * The lab's clock: the file `clock` in the run directory, as proto/pipes.md has it.
 *
 * It is read again whenever somebody asks this process something (which is how a change is made
 * known) and whenever a timer is set or due, so no map of it is needed.
 */
import fs from "node:fs";
import { spawnSync } from "node:child_process";
import os from "node:os";

const SIZE = 80;
const LEAD = 50_000_000n;
const MARGIN = 1_000_000n;
const HIGHEST = 1n << 62n;
const RATE_MAX = 1_000_000_000n;
const LITTLE = os.endianness() === "LE";
const CRC = Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

/** CRC-32 of some bytes (that of zlib, which Node has only since 20.15). */
export function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** Rounded down, for a divisor above 0. */
const floor = (a, b) => (a < 0n && a % b !== 0n ? a / b - 1n : a / b);

/** From the real time `at` on, when it is `lab` in the lab, time runs at num / den of its pace. */
class Pace {
  constructor(at = 0n, lab = 0n, num = 1n, den = 1n) {
    Object.assign(this, { at, lab, num, den });
  }

  time(real) {
    return this.lab + floor((real - this.at) * this.num, this.den);
  }

  /** The first real time at which it is `when` in the lab; null when that never comes. */
  real(when) {
    if (this.num === 0n) return when > this.lab ? null : this.at;
    return this.at - floor((this.lab - when) * this.den, this.num);
  }
}

export class LabClock {
  /** monotonic: the machine's own time, in nanoseconds as a bigint. */
  constructor(directory, monotonic = process.hrtime.bigint) {
    this.path = `${directory}/clock`;
    this.monotonic = monotonic;
    this.file = fs.openSync(this.path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600);
    fs.ftruncateSync(this.file, SIZE);
    this.version = 0n;
    this.pace = this.before = new Pace();
    this.look();
  }

  /** Read the record again; one that is being written is read at the next look. */
  look() {
    const record = Buffer.alloc(SIZE);
    fs.readSync(this.file, record, 0, SIZE, 0);
    const words = wordsOf(record);
    if (words[0] === 0n || words[0] === this.version) return;
    if (BigInt(crc32(record.subarray(0, 72))) !== words[9]) return;
    [this.version] = words;
    this.pace = new Pace(...words.slice(1, 5));
    this.before = new Pace(...words.slice(5, 9));
  }

  /** Lab time in nanoseconds, as a bigint. */
  exact() {
    const real = this.monotonic();
    return (real >= this.pace.at ? this.pace : this.before).time(real);
  }

  now() {
    return Number(this.exact());
  }

  /** Milliseconds until it is `when` in the lab, rounded up; null while that never comes. */
  until(when) {
    this.look();
    const whole = BigInt(Math.ceil(when));
    let real = this.pace.real(whole);
    if (whole <= this.pace.lab) {
      const before = this.before.real(whole);
      real = before === null || before > this.pace.at ? this.pace.at : before;
    }
    if (real === null) return null;
    return Math.max(0, Number((real - this.monotonic() + 999_999n) / 1_000_000n));
  }

  /** `ask clock`: its state, a planned change, or one that is to count. Throws RangeError. */
  ask(what = "show", ...words) {
    this.look();
    if (what === "plan") return this.plan(...words.map(BigInt));
    if (what === "adopt") this.adopt(words.map(BigInt));
    else if (what !== "show") throw new RangeError(`KeyError: ${what}`);
    return { time: this.exact(), at: this.pace.at, lab: this.pace.lab, num: this.pace.num,
      den: this.pace.den };
  }

  plan(num, den, lead = LEAD) {
    if (num < 0n || num > RATE_MAX || den < 1n || den > RATE_MAX) {
      throw new RangeError(`a clock cannot run at ${num}/${den}`);
    }
    const now = this.monotonic();
    if (this.pace.at > now) {
      throw new RangeError("clock: another change is under way: try again");
    }
    const { at, lab, num: n, den: d } = this.pace;
    return [now + lead, this.pace.time(now + lead), num, den, at, lab, n, d];
  }

  adopt(plan) {
    if (plan.length !== 8 || !plan.every((word) => word >= 0n && word < HIGHEST)
      || plan[3] === 0n || plan[7] === 0n) {
      throw new RangeError("a clock's change is eight integers, and a pace is a fraction");
    }
    const lock = fs.openSync(this.path, "r+");
    try {
      flock(lock);
      this.look();
      const now = [this.pace, this.before].flatMap((p) => [p.at, p.lab, p.num, p.den]);
      if (this.version !== 0n && now.every((word, index) => word === plan[index])) return;
      if (plan[0] < this.monotonic() + MARGIN) {
        throw new RangeError("the change comes too late");
      }
      const record = recordOf([this.version + 1n, ...plan]);
      fs.writeSync(this.file, record, 0, SIZE, 0);
      this.look();
    } finally {
      fs.closeSync(lock);
    }
  }

  close() {
    fs.closeSync(this.file);
  }
}

/** Wait for the exclusive lock on an open file; it is held until that is closed. */
function flock(file) {
  const { status } = spawnSync("flock", ["-x", "-w", "1", "3"],
    { stdio: ["ignore", "ignore", "ignore", file] });
  if (status !== 0) throw new RangeError("clock: the lock on it cannot be had");
}

function wordsOf(record) {
  const word = LITTLE ? "readBigInt64LE" : "readBigInt64BE";
  return Array.from({ length: 10 }, (_, index) => record[word](index * 8));
}

function recordOf(words) {
  const record = Buffer.alloc(SIZE);
  const word = LITTLE ? "writeBigInt64LE" : "writeBigInt64BE";
  words.forEach((value, index) => record[word](value, index * 8));
  record[word](BigInt(crc32(record.subarray(0, 72))), 72);
  return record;
}
