/** Trace events for whoever subscribes: each message that crosses a boundary of this layer. */
import { XPublisher } from "zeromq";

import {
  BARRIER, DATAGRAM, HELLO, NEIGHBOUR_FAILED, PACKET_ERROR, SEGMENT, fieldsOf, nameOf, pack,
} from "./messages.js";
import { text } from "./addresses.js";

const EVENTS_PER_MESSAGE = 256;
const HIGH_WATER = 1000;
const BYTES = new Map([
  [DATAGRAM, "packet"], [NEIGHBOUR_FAILED, "packet"], [SEGMENT, "payload"],
  [PACKET_ERROR, "quote"],
]);
const BOUNDARIES = { tcp: "tcp/ip", link: "ip/link" };

export class Trace {
  constructor(host, count) {
    this.host = host;
    this.count = count;
    this.socket = new XPublisher({
      linger: 0, sendHighWaterMark: HIGH_WATER, sendTimeout: 0, verbosity: "allSubsUnsubs",
      noDrop: true,
    });
    this.subscribers = 0;
    this.events = [];
    this.lost = 0;
  }

  get enabled() {
    return this.subscribers > 0;
  }

  async open(endpoint) {
    await this.socket.bind(endpoint);
  }

  /** Attend to subscriptions until the socket is closed. */
  async run() {
    for await (const [word] of this.socket) {
      if (word[0] === 1) {
        this.subscribers += 1;
        this.flush();
        this.publish([]); // from here on everything is seen
      } else if (word[0] === 0 && this.subscribers > 0) {
        this.subscribers -= 1;
        if (this.subscribers === 0) this.events.length = 0;
      }
    }
  }

  /** what: "in" from the neighbour, or "out" to it; time: lab time in nanoseconds. */
  crossing(what, message, neighbour, time) {
    if (message.kind === BARRIER || message.kind === HELLO && what === "out") return;
    const down = (neighbour === "link") === (what === "out");
    const name = BYTES.get(message.kind);
    const fields = {};
    for (const field of fieldsOf(message.kind)) {
      if (field !== name) fields[field] = plain(message[field]);
    }
    this.events.push([
      this.host, "ip", time, message.trace, what, BOUNDARIES[neighbour], down ? "down" : "up",
      nameOf(message.kind), fields, name === undefined ? Buffer.alloc(0) : message[name], {}, {},
    ]);
  }

  /** Send the events gathered since the last time. */
  flush() {
    for (let start = 0; start < this.events.length; start += EVENTS_PER_MESSAGE) {
      this.publish(this.events.slice(start, start + EVENTS_PER_MESSAGE));
    }
    this.events.length = 0;
  }

  publish(events) {
    const { lost } = this;
    this.lost = 0;
    this.socket.send(pack([lost, events])).catch(() => {
      this.lost += lost + events.length;
      this.count("trace_events_lost", events.length);
    });
  }

  close() {
    this.socket.close();
  }
}

/** A field as people read it: addresses dotted or with colons, rows as text. */
function plain(value) {
  if (value instanceof Uint8Array) {
    return value.length === 4 ? text(value) : Buffer.from(value).toString("hex", 0)
      .replace(/..(?=.)/g, "$&:");
  }
  return Array.isArray(value) ? value.map((row) => row.map(plain).join(" ")).join(", ") : value;
}
