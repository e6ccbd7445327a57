/**
 * The messages of an ip's two pipes and the batches that carry them, as proto/pipes.md has them.
 *
 * A message is an object here: `kind`, `trace` and its fields by name. On a pipe it is an array.
 */
import { Decoder, Encoder } from "@msgpack/msgpack";

export const SCHEMA = 3;
export const MAX_BATCH = 4 << 20;
export const MAX_MESSAGES = 4096;

export const HELLO = 1;
export const BARRIER = 2;
export const FENCE = 3;
export const DATAGRAM = 16;
export const NEIGHBOUR_FAILED = 17;
export const INTERFACE = 18;
export const SEGMENT = 32;
export const PACKET_ERROR = 33;
export const PATHS = 34;

/** Datagram up, Segment up: it came for a group. Segment down: don't fragment. */
export const FLAG_GROUP = 1;
export const FLAG_DONT_FRAGMENT = 2;

const whole = (high) => (value) => {
  const number = typeof value === "bigint" ? Number(value) : value;
  if (!Number.isInteger(number)) return undefined;
  return number >= 0 && number <= high ? number : null;
};
const u64 = (value) => {
  if (typeof value === "bigint") return value >= 0n && value < 1n << 64n ? value : null;
  return Number.isSafeInteger(value) ? (value >= 0 ? value : null) : undefined;
};
const bytes = (low, high) => (value) => {
  if (!(value instanceof Uint8Array)) return undefined;
  return value.length >= low && value.length <= high ? value : null;
};
const text = (high) => (value) => {
  if (typeof value !== "string") return undefined;
  return value.length <= high || [...value].length <= high ? value : null;
};
const rows = (value) => (Array.isArray(value) && value.length <= 1024 ? value : undefined);

/** Each gives the value, undefined for another type, null for one that is out of its bounds. */
const TYPES = {
  u8: whole(0xff), u16: whole(0xffff), u32: whole(0xffffffff), u64, flag: whole(1),
  address: bytes(4, 4), mac: bytes(6, 6), packet: bytes(0, 65535), name: text(64), rows,
};

const TABLE = new Map([
  [HELLO, ["Hello", { role: "name", generation: "u64", reply: "flag" }]],
  [BARRIER, ["Barrier", { ifindex: "u16", station: "name", token: "u64" }]],
  [FENCE, ["Fence", { stage: "u8", token: "u64" }]],
  [DATAGRAM, ["Datagram", { ifindex: "u16", next_hop: "address", flags: "u8", packet: "packet" }]],
  [NEIGHBOUR_FAILED, ["NeighbourFailed",
    { ifindex: "u16", next_hop: "address", packet: "packet" }]],
  [INTERFACE, ["Interface", { ifindex: "u16", name: "name", mac: "mac", mtu: "u16", up: "flag" }]],
  [SEGMENT, ["Segment", { protocol: "u8", src: "address", dst: "address", tos: "u8", ttl: "u8",
    flags: "u8", payload: "packet" }]],
  [PACKET_ERROR, ["PacketError", { protocol: "u8", local: "flag", reporter: "address", type: "u8",
    code: "u8", mtu: "u16", src: "address", dst: "address", quote: "packet" }]],
  [PATHS, ["Paths", { rows: "rows" }]],
]);

const CODECS = new Map([...TABLE].map(([kind, [name, fields]]) => {
  const names = ["trace", ...Object.keys(fields)];
  return [kind, { name, names, checks: ["u64", ...Object.values(fields)].map((t) => TYPES[t]) }];
}));

/** The name of a message's kind, and those of its fields without the trace id. */
export const nameOf = (kind) => CODECS.get(kind).name;
export const fieldsOf = (kind) => CODECS.get(kind).names.slice(1);

const encoder = new Encoder({ useBigInt64: true });
const decoder = new Decoder({
  useBigInt64: true, maxStrLength: 1 << 16, maxBinLength: MAX_BATCH,
  maxArrayLength: MAX_MESSAGES + 1, maxMapLength: 4096, maxExtLength: 0,
});

/**
 * One batch of messages, in their order.
 * @param {object[]} messages
 * @returns {Uint8Array}
 */
export function encodeBatch(messages) {
  const batch = [SCHEMA];
  for (const message of messages) {
    const row = [message.kind];
    for (const name of CODECS.get(message.kind).names) row.push(message[name]);
    batch.push(row);
  }
  return encoder.encode(batch);
}

/**
 * The good messages of a batch, and for each that had to be dropped the reason. A batch that is
 * none, or of another version, is dropped whole.
 * @param {Uint8Array} data
 * @returns {{messages: object[], errors: string[]}}
 */
export function decodeBatch(data) {
  if (data.length > MAX_BATCH) return { messages: [], errors: ["batch_too_long"] };
  let batch;
  try {
    batch = decoder.decode(data);
  } catch {
    return { messages: [], errors: ["batch_not_msgpack"] };
  }
  if (!Array.isArray(batch) || batch.length === 0) {
    return { messages: [], errors: ["batch_not_array"] };
  }
  if (batch[0] !== SCHEMA) return { messages: [], errors: ["schema_version"] };
  const messages = [];
  const errors = [];
  for (let index = 1; index < batch.length; index += 1) {
    const message = readMessage(batch[index]);
    if (typeof message === "string") errors.push(message);
    else messages.push(message);
  }
  return { messages, errors };
}

/** The message that an array is, or the reason why it is none. */
function readMessage(row) {
  if (!Array.isArray(row) || !Number.isInteger(row[0])) return "message_not_array";
  const codec = CODECS.get(row[0]);
  if (codec === undefined) return "unknown_kind";
  if (row.length - 1 !== codec.names.length) return "bad_arity";
  const message = { kind: row[0] };
  for (let index = 0; index < codec.names.length; index += 1) {
    const value = codec.checks[index](row[index + 1]);
    if (value === undefined) return "bad_type";
    if (value === null) return "bad_size";
    message[codec.names[index]] = value;
  }
  return message;
}

/** An answer or a list of events as bytes: whole numbers stay whole above 32 bits too. */
export function pack(value) {
  return encoder.encode(wholeNumbers(value));
}

/** What bytes say; throws when they are not msgpack. */
export function unpack(data) {
  return decoder.decode(data);
}

function wholeNumbers(value) {
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(wholeNumbers);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, wholeNumbers(one)]));
}
