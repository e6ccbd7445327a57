/** Addresses as bytes and as text, and which of them no host can have (RFC 1122 3.2.1.3). */

export const UNSPECIFIED = Buffer.from([0, 0, 0, 0]);
export const LOOPBACK = Buffer.from([127, 0, 0, 1]);

export const number = (a) => ((a[0] << 24) | (a[1] << 16) | (a[2] << 8) | a[3]) >>> 0;
export const mask = (length) => (length ? (0xffffffff << (32 - length)) >>> 0 : 0);
export const same = (a, b) => number(a) === number(b);
export const isLoopback = (a) => a[0] === 127;
export const text = (a) => `${a[0]}.${a[1]}.${a[2]}.${a[3]}`;

/** The four bytes of a number. */
export function packed(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

/** The four bytes of `10.0.0.1`. Throws RangeError. */
export function parse(word) {
  const parts = String(word).split(".");
  const bytes = parts.map((part) => (/^(0|[1-9]\d{0,2})$/.test(part) ? Number(part) : 256));
  if (bytes.length !== 4 || bytes.some((byte) => byte > 255)) {
    throw new RangeError(`${word} is not an IPv4 address`);
  }
  return Buffer.from(bytes);
}

/** Address and length of `10.0.0.1/24`. Throws RangeError. */
export function parsePrefix(word) {
  const [address, length, ...more] = String(word).split("/");
  if (more.length || !/^\d{1,2}$/.test(length ?? "") || Number(length) > 32) {
    throw new RangeError(`${word} is not an address with a prefix length`);
  }
  return [parse(address), Number(length)];
}

/** A source that no single host can have: 0/8, 127/8, 224/3. */
export const isNoHost = (a) => a[0] === 0 || a[0] === 127 || a[0] >= 224;
