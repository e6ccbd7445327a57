import assert from "node:assert/strict";
import { test } from "node:test";

import { BadPacket, checksum, decode, encode } from "../header.js";

const HEADER = {
  src: Buffer.from([10, 0, 0, 1]), dst: Buffer.from([10, 0, 0, 2]), protocol: 6, tos: 0x2a,
  ttl: 9, ident: 0x1234, dontFragment: true,
};

test("the checksum of RFC 1071's example", () => {
  const words = Buffer.from("0001f203f4f5f6f7", "hex");
  assert.equal(checksum(words), 0xffff - 0xddf2);
});

test("an odd byte counts as the high one of a word", () => {
  assert.equal(checksum(Buffer.from([0x12])), checksum(Buffer.from([0x12, 0])));
});

test("a sum that carries more than once", () => {
  assert.equal(checksum(Buffer.alloc(65535, 0xff)), 0x00ff);
});

test("a header with a good checksum sums to nothing", () => {
  const packet = Buffer.from("45000073000040004011b861c0a80001c0a800c7", "hex");
  assert.equal(checksum(packet), 0);
});

test("what is encoded is decoded, and padding is cut off", () => {
  const packet = encode(HEADER, Buffer.from("payload"));
  const { payload, ...header } = decode(Buffer.concat([packet, Buffer.alloc(20)]));
  assert.equal(payload.toString(), "payload");
  assert.deepEqual(header, { ...HEADER, moreFragments: false, offset: 0 });
});

test("a packet cut short anywhere is no packet", () => {
  const packet = encode(HEADER, Buffer.from("payload"));
  for (let size = 0; size < packet.length; size += 1) {
    assert.throws(() => decode(packet.subarray(0, size)), BadPacket);
  }
});

test("any bit of the header that flips is noticed", () => {
  const packet = encode(HEADER, Buffer.alloc(0));
  for (let bit = 0; bit < 160; bit += 1) {
    const damaged = Buffer.from(packet);
    damaged[bit >> 3] ^= 1 << (bit & 7);
    assert.throws(() => decode(damaged), BadPacket, `bit ${bit}`);
  }
});

test("a quotation may be cut short, and its checksum wrong", () => {
  const packet = encode(HEADER, Buffer.from("12345678 and more"));
  packet[10] ^= 1;
  const quote = decode(packet.subarray(0, 28), false);
  assert.equal(quote.payload.toString(), "12345678");
});
