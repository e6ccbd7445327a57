/** The loop round the core: pipes, timers, trace and questions in and out. It reads the clock. */
import { randomBytes } from "node:crypto";

import { LabClock } from "./clock.js";
import { Control } from "./control.js";
import { Core } from "./core.js";
import { FORMAT, Handover } from "./handover.js";
import { hold } from "./locks.js";
import { BARRIER } from "./messages.js";
import { Pipe } from "./pipe.js";
import { Trace } from "./trace.js";

const ROLE = "ip";
const OTHER = { tcp: "link", link: "tcp" };

export class Shell {
  /** settings: what proto/pipes.md, "Starting a program", has. Throws RangeError. */
  constructor(settings) {
    this.settings = settings;
    this.core = new Core(settings, randomBytes(2).readUInt16BE());
    this.started = process.hrtime.bigint();
    this.generation = randomBytes(8).readBigUInt64BE() | 1n;
    this.handover = new Handover(this, this.generation);
  }

  /** What is named so in the lab's directory. */
  place(name) {
    return `${this.settings.directory}/${this.settings.host}.${name}`;
  }

  /** Answer whoever leads an exchange. */
  async prepare() {
    await this.handover.open(`ipc://${this.place(`ip.swap-${process.pid}`)}`);
  }

  /** Take the locks and bind everything. Rejects, or throws Held. */
  async open() {
    const { directory, host } = this.settings;
    const { generation } = this;
    const place = (name) => this.place(name);
    const count = (name, by = 1) => {
      this.core.counters[name] = (this.core.counters[name] ?? 0) + by;
    };
    const inbox = (role, neighbour) => place(`${role}.from-${neighbour}`);
    this.letGo = hold([place("ip.lock"), `${inbox(ROLE, "tcp")}.lock`, `${inbox(ROLE, "link")}.lock`]);
    this.clock = new LabClock(directory);
    this.pipes = Object.fromEntries(Object.keys(OTHER).map((neighbour) => [neighbour, new Pipe({
      role: ROLE, neighbour, generation, count, inbox: `ipc://${inbox(ROLE, neighbour)}`,
      outlet: `ipc://${inbox(neighbour, ROLE)}`,
    })]));
    this.trace = new Trace(host, count);
    this.control = new Control({
      ping: (words, answer) => answer(null, this.identity()),
      describe: (words, answer) => this.describe(words, answer),
      ask: (words, answer) => this.ask(words, answer),
    });
    await this.trace.open(`ipc://${place("ip.trace")}`);
    await this.control.open(`ipc://${place("ip.control")}`);
    await Promise.all(Object.values(this.pipes).map((pipe) => pipe.open()));
  }

  /** Work until `close`. Rejects when something fails that should not. */
  async run() {
    const loops = Object.entries(this.pipes).map(([neighbour, pipe]) =>
      pipe.run((messages) => this.take(messages, neighbour)));
    await Promise.all([...loops, this.trace.run(), this.control.run(), this.handover.run()]);
  }

  /** Let go of everything that a successor needs. */
  close() {
    clearTimeout(this.timer);
    for (const one of [...Object.values(this.pipes), this.trace, this.control, this.clock]) {
      one.close();
    }
    this.letGo();
  }

  take(messages, source) {
    const now = this.clock.now();
    for (const message of messages) {
      if (message.kind === BARRIER) {
        this.flush(); // it goes behind what was made of all before it
        this.pipes[OTHER[source]].send([message]);
        continue;
      }
      if (this.trace.enabled) this.trace.crossing("in", message, source, now);
      this.core.receive(message, source, now);
    }
    this.flush();
  }

  /** Send what the core has made. */
  flush() {
    const { outputs } = this.core;
    if (outputs.length > 0) {
      this.core.outputs = [];
      if (this.trace.enabled) {
        const now = this.clock.now();
        for (const [to, message] of outputs) this.trace.crossing("out", message, to, now);
      }
      for (const neighbour of Object.keys(this.pipes)) {
        const messages = [];
        for (const [to, message] of outputs) if (to === neighbour) messages.push(message);
        if (messages.length > 0) this.pipes[neighbour].send(messages);
      }
    }
    if (this.trace.enabled) this.trace.flush();
  }

  /** Let the timers ring when they are due, by the lab's clock. */
  arm() {
    clearTimeout(this.timer);
    const deadline = this.core.deadline();
    const wait = deadline === null ? null : this.clock.until(deadline);
    if (wait === null) return;
    this.timer = setTimeout(() => {
      this.core.expire(this.clock.now());
      this.flush();
      this.arm();
    }, Math.min(wait, 0x7fffffff));
  }

  // --- questions ---

  identity() {
    return {
      implementation: this.settings.implementation, pid: process.pid,
      uptime_ns: process.hrtime.bigint() - this.started,
    };
  }

  describe([topic], answer) {
    const views = { runtime: () => this.runtime(), format: () => FORMAT };
    const view = Object.hasOwn(views, topic) ? views[topic]() : this.core.describe(topic);
    if (view === undefined) answer(`KeyError: '${topic}'`);
    else answer(null, view);
  }

  runtime() {
    const { user, system } = process.cpuUsage();
    const traffic = Object.fromEntries(Object.entries(this.pipes).map(([neighbour, pipe]) =>
      [neighbour, { connected: pipe.connected ? 1 : 0, received: pipe.received, sent: pipe.sent,
        waiting: 0 }]));
    return {
      ...this.identity(), cpu_ns: (user + system) * 1000, counters: this.core.counters, traffic,
    };
  }

  ask([verb, ...words], answer) {
    if (verb === "clock") answer(null, this.clock.ask(...words));
    else {
      this.clock.look();
      if (!this.core.ask(verb, words, this.clock.now(), answer)) answer(`KeyError: '${verb}'`);
      this.flush();
    }
    this.arm(); // a change of the clock has moved what was waited for
  }
}
