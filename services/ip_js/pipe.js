/** A pipe to one neighbour: an inbox, an outlet, and Hello until both hear each other. */
import { Pull, Push } from "zeromq";

import { FENCE, HELLO, MAX_BATCH, decodeBatch, encodeBatch } from "./messages.js";

const HIGH_WATER = 256;
const PER_BATCH = 32;
const RECONNECT_MS = 10;
const RECONNECT_MAX_MS = 200;
const ASK_AGAIN_MS = 50;
const ASK_AGAIN_MAX_MS = 1000;

/** Stages of a Fence. */
const ASKED = 0;
const ANSWERED = 1;
const LIFTED = 2;
const HELD_MAX = 8192;
const HOLD_MS = 2000;

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
    this.received = 0;
    this.sent = 0;
    this.reached = false;
    this.heard = null; // the generation last heard
    this.known = null; // the one that has answered
    this.pause = ASK_AGAIN_MS;
    this.timer = null;
    this.owesAnswer = false; // a Hello was heard before the outlet reached who said it
    this.held = null; // messages for a neighbour that is being exchanged
    this.holding = null;
    this.answered = () => {}; // called with the token of the neighbour's answer to a fence
  }

  /** Bind the inbox and begin to look for the neighbour. Rejects when it cannot be bound. */
  async open() {
    await this.puller.bind(this.inbox);
    this.reach();
    this.ask();
  }

  /** Connect to the neighbour's inbox, anew if need be. */
  reach() {
    this.pusher?.close();
    const pusher = new Push({
      linger: 0, immediate: true, sendHighWaterMark: HIGH_WATER, sendTimeout: 0,
      reconnectInterval: RECONNECT_MS, reconnectMaxInterval: RECONNECT_MAX_MS,
    });
    this.pusher = pusher;
    this.reached = false;
    pusher.events.on("handshake", () => this.hasReached(pusher));
    pusher.events.on("disconnect", () => {
      if (pusher === this.pusher) this.reached = false;
    });
    pusher.connect(this.outlet);
  }

  hasReached(pusher) {
    if (pusher !== this.pusher || pusher.closed) return;
    if (!pusher.writable) { // ZeroMQ tells of the handshake a little before one can send
      setTimeout(() => this.hasReached(pusher), 1);
      return;
    }
    this.reached = true;
    if (this.owesAnswer) this.hello(1);
    if (this.timer !== null) this.askAgain();
    if (this.held !== null && this.holding === null) this.letGo();
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
      take(messages.filter((message) => this.passes(message)));
    }
  }

  /** A message is for the layer, and not for this pipe alone. */
  passes(message) {
    if (message.kind === HELLO) {
      if (this.holding !== null) { // that is the successor, behind the same path
        this.stopHolding();
        this.reach();
      }
      return this.met(message);
    }
    if (message.kind !== FENCE) return true;
    if (message.stage === ASKED) {
      this.say({ ...message, stage: ANSWERED });
      this.held ??= [];
      this.stopHolding();
      this.holding = setTimeout(() => this.letGo(), HOLD_MS);
    } else if (message.stage === ANSWERED) this.answered(BigInt(message.token));
    else if (this.holding !== null) this.letGo();
    return false;
  }

  stopHolding() {
    clearTimeout(this.holding);
    this.holding = null;
  }

  /** Send what was held. */
  letGo() {
    this.stopHolding();
    const messages = this.held;
    this.held = null;
    this.send(messages);
  }

  /**
   * Ask the neighbour to send nothing more; resolves to true when it has answered, to false when
   * it has not within `limit` ms.
   */
  fence(token, limit) {
    this.say({ kind: FENCE, trace: 0, stage: ASKED, token });
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), limit);
      this.answered = (answer) => {
        if (answer !== token) return;
        clearTimeout(timer);
        resolve(true);
      };
    });
  }

  /** This layer stays after all. */
  lift(token) {
    this.say({ kind: FENCE, trace: 0, stage: LIFTED, token });
  }

  /** Send in order; what the neighbour cannot take now is dropped and counted. */
  send(messages) {
    if (this.held !== null) {
      const room = HELD_MAX - this.held.length;
      this.held.push(...messages.slice(0, room));
      if (messages.length > room) {
        this.count(`drop_${this.neighbour}_away_or_full`, messages.length - room);
      }
      return;
    }
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
    this.stopHolding();
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

  /** A Hello that is lost is said again: a question soon, an answer once it can be heard. */
  hello(reply) {
    const message = { kind: HELLO, trace: 0, role: this.role, generation: this.generation, reply };
    if (reply) this.owesAnswer = false;
    this.say(message, () => {
      if (reply) this.owesAnswer = true;
    });
  }

  /** Send a message of the pipe's own, past those that are held. */
  say(message, lost = () => {}) {
    this.pusher.send(encodeBatch([message])).catch(lost);
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
