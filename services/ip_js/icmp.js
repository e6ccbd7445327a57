/** ICMP (RFC 792): messages, and how many errors a host sends (RFC 1122 3.2.2, RFC 1812 4.3.2.8). */
import { BadPacket, checksum } from "./header.js";

export const ECHO_REPLY = 0;
export const UNREACHABLE = 3;
export const ECHO_REQUEST = 8;
export const TIME_EXCEEDED = 11;
export const PARAMETER_PROBLEM = 12;

/** Codes of UNREACHABLE. */
export const NET = 0;
export const HOST = 1;
export const PROTOCOL = 2;
export const PORT = 3;
export const TOO_BIG = 4;

/** Bytes of an ICMP error's packet, all told. */
const ERROR_SIZE = 576;

/** @returns {Buffer} type, code, checksum, the four bytes `rest`, and the body */
export function encode(type, code, rest, body) {
  const message = Buffer.allocUnsafe(8 + body.length);
  message[0] = type;
  message[1] = code;
  message.writeUInt16BE(0, 2);
  message.writeUInt32BE(rest >>> 0, 4);
  message.set(body, 8);
  message.writeUInt16BE(checksum(message), 2);
  return message;
}

/** Throws BadPacket. */
export function decode(payload) {
  if (payload.length < 8) throw new BadPacket("icmp_too_short");
  if (checksum(payload) !== 0) throw new BadPacket("icmp_bad_checksum");
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  return {
    type: payload[0], code: payload[1], rest: view.getUint32(4), body: payload.subarray(8),
  };
}

/** As much of the offending packet as an error quotes. */
export const quotation = (packet) => packet.subarray(0, ERROR_SIZE - 28);

/** A token bucket: so many errors a second, and so many at once. Times in nanoseconds. */
export class Bucket {
  constructor(rate, burst) {
    this.rate = rate;
    this.burst = burst;
    this.tokens = burst;
    this.at = 0;
  }

  /** One may be sent now. */
  take(now) {
    this.tokens = Math.min(this.burst, this.tokens + ((now - this.at) * this.rate) / 1e9);
    this.at = now;
    if (this.tokens < 1) return false;
    this.tokens -= 1;
    return true;
  }
}
