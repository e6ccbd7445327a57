/** Echo requests of this host's own: `ask ping`. Times are lab time, in nanoseconds. */

const WAITING_MAX = 1024;
const LONGEST = 3_600_000;

/** What an answer is matched by. */
const key = (identifier, sequence) => identifier * 65536 + sequence;

export class Echoes {
  constructor() {
    this.waiting = new Map();
  }

  /**
   * Note a request that goes out now. `answer` is called once, with an error's text or null, and
   * what came back. Throws RangeError for arguments that cannot be.
   * @returns {number} identifier and sequence number, as they stand in the message
   */
  begin(size, milliseconds, identifier, sequence, now, answer) {
    const limits = [[size, 65507], [milliseconds, LONGEST], [identifier, 65535], [sequence, 65535]];
    if (!limits.every(([value, high]) => Number.isInteger(value) && value >= 0 && value <= high)) {
      throw new RangeError("ping wants an address, a size, milliseconds, and identifier and number");
    }
    if (this.waiting.size >= WAITING_MAX) throw new RangeError("too many pings are under way");
    const which = key(identifier, sequence);
    this.waiting.get(which)?.answer("EINVAL: another ping has this identifier and number");
    const due = now + milliseconds * 1e6;
    this.waiting.set(which, { answer, sent: now, due, milliseconds });
    return which;
  }

  /** A reply to the request with these numbers, or an error about it. False: there is none. */
  end(rest, found, now) {
    const ping = this.waiting.get(rest);
    if (ping === undefined) return false;
    this.waiting.delete(rest);
    ping.answer(null, { ...found, rtt_ns: now - ping.sent });
    return true;
  }

  deadline() {
    let earliest = null;
    for (const { due } of this.waiting.values()) {
      if (earliest === null || due < earliest) earliest = due;
    }
    return earliest;
  }

  expire(now) {
    for (const [which, ping] of this.waiting) {
      if (ping.due > now) continue;
      this.waiting.delete(which);
      ping.answer(`ETIMEDOUT: no answer within ${ping.milliseconds} ms`);
    }
  }
}
