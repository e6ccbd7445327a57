/** How this process is led through an exchange (proto/pipes.md, "Being exchanged"). */
import { randomBytes } from "node:crypto";

import { Control } from "./control.js";
import { SCHEMA } from "./messages.js";

/** What a snapshot of this layer is: there is none, so no successor takes one over. */
export const FORMAT = "ip_js has no snapshot";

/** The snapshots that it can read: none. */
const READS = "none";

const DRAIN_MS = 500;
const LAST_WORDS_MS = 1000;

export class Handover {
  constructor(shell, generation) {
    this.shell = shell;
    this.generation = generation;
    this.token = null;
    this.control = new Control({}, LAST_WORDS_MS);
    this.started = () => {}; // called when this process works
  }

  /** Answer questions at the endpoint from now on. */
  async open(endpoint) {
    await this.control.open(endpoint);
    this.answering = this.control.run();
  }

  /** Resolves when the process before this one has left. */
  turn() {
    return new Promise((resolve) => {
      this.control.verbs = {
        format: (words, answer) => answer(null, READS),
        go: (words, answer) => {
          this.started = () => answer(null, true);
          resolve();
        },
      };
    });
  }

  /** This process works, and can be led out in its turn. */
  ready() {
    this.control.verbs = {
      fence: (words, answer) => this.fence(answer),
      lift: (words, answer) => answer(null, this.lift()),
      leave: (words, answer) => this.leave(answer),
    };
    this.started();
  }

  /** Resolves when it has left. */
  run() {
    return this.answering;
  }

  /** Ask the neighbours to hold what they have; answered when they do. What is made of what was on
   * its way still goes out: there is no state that it could be missing from. */
  async fence(answer) {
    if (this.token !== null) {
      answer("an exchange of this layer is under way");
      return;
    }
    this.token = randomBytes(8).readBigUInt64BE() >> 1n;
    const asked = Object.entries(this.shell.pipes).filter(([, pipe]) => pipe.connected);
    const answers = await Promise.all(asked.map(([, pipe]) => pipe.fence(this.token, DRAIN_MS)));
    answer(null, {
      schema: SCHEMA, format: FORMAT, generation: this.generation, state: Buffer.alloc(0),
      pipes: {}, held: {}, ports: {},
      silent: asked.filter((_, index) => !answers[index]).map(([name]) => name),
    });
  }

  /** It was for nothing; true when there was a fence. */
  lift() {
    if (this.token === null) return false;
    for (const pipe of Object.values(this.shell.pipes)) pipe.lift(this.token);
    this.token = null;
    return true;
  }

  /** Let go of everything; answered when that is done, and then this process ends. */
  leave(answer) {
    if (this.token === null) {
      answer("fence first");
      return;
    }
    this.shell.close();
    answer(null, true);
    this.control.close(); // which ends `run`, and so the process
  }
}
