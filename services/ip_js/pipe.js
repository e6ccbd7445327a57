/** A pipe to one neighbour: an inbox, an outlet, and Hello until both hear each other. */
import { Pull, Push } from "zeromq";

import { HELLO, MAX_BATCH, decodeBatch, encodeBatch } from "./messages.js";

const HIGH_WATER = 256;
const PER_BATCH = 32;
const RECONNECT_MS = 10;
const RECONNECT_MAX_MS = 200;
const ASK_AGAIN_MS = 50;
const ASK_AGAIN_MAX_MS = 1000;

export class Pipe {
  /**
   * @param {{role: string, neighbour: string, inbox: string, outlet: string, generation: bigint,
   *   count: (name: string, by?: number) => void}} what
   */
  constructor(what) {
    Object.assign(this, what);
    this.puller = new Pull({
      linger: 0, receiveHighWaterMark: HIGH_WATER, maxMessageSize: MAX_BATCH,
    });
    this.pusher = new Push({
      linger: 0, immediate: true, sendHighWaterMark: HIGH_WATER, sendTimeout: 0,
      reconnectInterval: RECONNECT_MS, reconnectMaxInterval: RECONNECT_MAX_MS,
    });
    this.received = 0;
    this.sent = 0;
    this.reached = false;
    this.heard = null; // the generation last heard
    this.known = null; // the one that has answered
    this.pause = ASK_AGAIN_MS;
    this.timer = null;
  }

  /** Bind the inbox and begin to look for the neighbour. Rejects when it cannot be bound. */
  async open() {
    await this.puller.bind(this.inbox);
    this.pusher.events.on("handshake", () => {
      this.reached = true;
      if (this.timer !== null) setImmediate(() => this.askAgain());
    });
    this.pusher.events.on("disconnect", () => {
      this.reached = false;
    });
    this.pusher.connect(this.outlet);
    this.ask();
  }

  get connected() {
    return this.reached && this.known !== null;
  }

  /**
   * Call `take(messages)` with what arrives until the pipe is closed. A Hello is among it only
   * when it is the answer that makes a new neighbour known.
   */
  async run(take) {
    for await (const [data] of this.puller) {
      const { messages, errors } = decodeBatch(data);
      for (const reason of errors) this.count(`drop_pipe_${reason}`);
      this.received += messages.length;
      take(messages.filter((message) => message.kind !== HELLO || this.met(message)));
    }
  }

  /** Send in order; what the neighbour cannot take now is dropped and counted. */
  send(messages) {
    this.sent += messages.length;
    for (let start = 0; start < messages.length; start += PER_BATCH) {
      const batch = messages.slice(start, start + PER_BATCH);
      this.pusher.send(encodeBatch(batch)).catch(() => {
        this.sent -= batch.length;
        this.count(`drop_${this.neighbour}_away_or_full`, batch.length);
      });
    }
  }

  close() {
    clearTimeout(this.timer);
    this.puller.close();
    this.pusher.close();
  }

  /** Say Hello now, and again until it is answered. */
  ask() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.askAgain(), this.pause);
    this.hello(0);
  }

  askAgain() {
    if (this.timer === null) return;
    this.pause = Math.min(2 * this.pause, ASK_AGAIN_MAX_MS);
    this.ask();
  }

  /** A Hello is not counted as lost: it is said again. */
  hello(reply) {
    const message = { kind: HELLO, trace: 0, role: this.role, generation: this.generation, reply };
    this.pusher.send(encodeBatch([message])).catch(() => {});
  }

  /** Note who the neighbour is; true when that is sure now, and news. */
  met({ generation, reply }) {
    const who = BigInt(generation);
    if (who !== this.heard) {
      this.heard = who;
      this.pause = ASK_AGAIN_MS;
      if (!reply) this.ask();
    }
    if (!reply) {
      this.hello(1);
      return false;
    }
    clearTimeout(this.timer);
    this.timer = null;
    const fresh = who !== this.known;
    this.known = who;
    return fresh;
  }
}
