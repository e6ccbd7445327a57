/** Questions about this layer, and their answers (proto/pipes.md, "Watching"). */
import { Router } from "zeromq";

import { pack, unpack } from "./messages.js";

export class Control {
  /** verbs: by name, `verb(words, answer)`; answer(error, value) is called once, now or later. linger: ms. */
  constructor(verbs, linger = 0) {
    this.verbs = verbs;
    this.socket = new Router({ linger, maxMessageSize: 1 << 20, sendTimeout: 0 });
  }

  async open(endpoint) {
    await this.socket.bind(endpoint);
  }

  /** Answer until the socket is closed. */
  async run() {
    for await (const frames of this.socket) this.attend(frames);
  }

  attend(frames) {
    const wayBack = frames.slice(0, -1);
    const answer = (error, value) => {
      const words = error === null ? ["ok", value] : ["error", error];
      this.socket.send([...wayBack, pack(words)]).catch(() => {}); // who asked has gone
    };
    try {
      const [verb, ...words] = unpack(frames.at(-1));
      if (!Object.hasOwn(this.verbs, verb)) throw new RangeError(`KeyError: '${verb}'`);
      this.verbs[verb](words.map(small), answer);
    } catch (error) {
      answer(error instanceof RangeError ? error.message : `ValueError: ${error.message}`);
    }
  }

  close() {
    this.socket.close();
  }
}

/** A whole number as a Number where it is one. */
function small(word) {
  return typeof word === "bigint" && word <= BigInt(Number.MAX_SAFE_INTEGER) && word >= 0n
    ? Number(word) : word;
}
