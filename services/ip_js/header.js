/** The IPv4 header (RFC 791 3.1) and the internet checksum (RFC 1071). Nothing else. */

export const ICMP = 1;
export const TCP = 6;
export const UDP = 17;
export const HEADER = 20;
export const MAX_PACKET = 65535;

const DONT_FRAGMENT = 0x4000;

/** A packet that cannot be one; `reason` is what it is counted under. */
export class BadPacket extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/**
 * The internet checksum of some bytes: 0 over data that has a good one in it.
 * @param {Uint8Array} data
 * @returns {number} 16 bits
 */
export function checksum(data) {
  let sum = 0;
  const even = data.length & ~1;
  for (let index = 0; index < even; index += 2) sum += (data[index] << 8) | data[index + 1];
  if (even < data.length) sum += data[even] << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}

/**
 * A packet: a header without options, its checksum filled in, and the payload.
 * @param {{src: Uint8Array, dst: Uint8Array, protocol: number, tos: number, ttl: number,
 *   ident: number, dontFragment: boolean}} header
 * @param {Uint8Array} payload 65,515 bytes at most
 * @returns {Buffer}
 */
export function encode(header, payload) {
  const packet = Buffer.allocUnsafe(HEADER + payload.length);
  packet[0] = 0x45;
  packet[1] = header.tos;
  packet.writeUInt16BE(packet.length, 2);
  packet.writeUInt16BE(header.ident, 4);
  packet.writeUInt16BE(header.dontFragment ? DONT_FRAGMENT : 0, 6);
  packet[8] = header.ttl;
  packet[9] = header.protocol;
  packet.writeUInt16BE(0, 10);
  packet.set(header.src, 12);
  packet.set(header.dst, 16);
  packet.writeUInt16BE(checksum(packet.subarray(0, HEADER)), 10);
  packet.set(payload, HEADER);
  return packet;
}

/**
 * Header and payload of a packet; what lies behind its total length is padding. Options are passed
 * over. `whole` is false for the quotation in an ICMP error, which is cut short, and whose
 * checksum routers may have left wrong.
 *
 * Throws BadPacket.
 * @param {Uint8Array} packet
 * @param {boolean} [whole]
 */
export function decode(packet, whole = true) {
  if (packet.length < HEADER) throw new BadPacket("ip_too_short");
  if (packet[0] >> 4 !== 4) throw new BadPacket("ip_bad_version");
  const size = (packet[0] & 15) << 2;
  if (size < HEADER || size > packet.length) throw new BadPacket("ip_bad_header_length");
  const total = (packet[2] << 8) | packet[3];
  if (total < size || (whole && total > packet.length)) throw new BadPacket("ip_bad_total_length");
  if (whole && checksum(packet.subarray(0, size)) !== 0) throw new BadPacket("ip_bad_checksum");
  const fragment = (packet[6] << 8) | packet[7];
  return {
    tos: packet[1],
    ident: (packet[4] << 8) | packet[5],
    dontFragment: (fragment & DONT_FRAGMENT) !== 0,
    moreFragments: (fragment & 0x2000) !== 0,
    offset: (fragment & 0x1fff) << 3,
    ttl: packet[8],
    protocol: packet[9],
    src: packet.subarray(12, 16),
    dst: packet.subarray(16, 20),
    payload: packet.subarray(size, Math.min(total, packet.length)),
  };
}
