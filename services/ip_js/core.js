/**
 * IPv4 for one interface: no I/O, no clock. Messages go in with `receive`, and what is to be sent
 * stands in `outputs`. `now` is lab time in nanoseconds (a Number: exact for 104 days of uptime).
 *
 * A host's IP (RFC 1122 3): it forwards nothing. It neither cuts packets nor puts them together:
 * what is longer than the MTU is refused with "too big", and fragments are counted and dropped.
 */
import {
  UNSPECIFIED, isLoopback, isNoHost, parse, same, text,
} from "./addresses.js";
import { Echoes } from "./echo.js";
import * as ipv4 from "./header.js";
import * as icmp from "./icmp.js";
import {
  DATAGRAM, FLAG_DONT_FRAGMENT, FLAG_GROUP, HELLO, INTERFACE, NEIGHBOUR_FAILED, PACKET_ERROR,
  PATHS, SEGMENT,
} from "./messages.js";
import { Routes } from "./routes.js";

const QUOTE = 64;
const LEAST_QUOTE = 8;

export class Core {
  /**
   * @param {object} settings interfaces (one), routes, and ip: ttl, icmp_rate, icmp_burst
   * @param {number} ident where the identification starts (RFC 6864 4.1: not to be guessed)
   */
  constructor(settings, ident) {
    if (settings.interfaces.length !== 1) {
      throw new RangeError(`has ${settings.interfaces.length} interfaces, and this ip is for one`);
    }
    if (settings.forwarding) throw new RangeError("is to forward, which this ip does not");
    this.routes = new Routes(settings.interfaces, settings.routes);
    this.ttl = settings.ip.ttl;
    this.bucket = new icmp.Bucket(settings.ip.icmp_rate, settings.ip.icmp_burst);
    this.echoes = new Echoes();
    this.counters = {};
    this.outputs = [];
    this.ident = ident;
    this.pings = 0;
    this.tcpIsThere = false;
  }

  /** Take one message that came from `source`, "tcp" or "link". Nothing is thrown. */
  receive(message, source, now) {
    const take = HANDLERS[source].get(message.kind);
    if (take === undefined) this.drop("unexpected_message");
    else take(this, message, now);
  }

  deadline() {
    return this.echoes.deadline();
  }

  expire(now) {
    this.echoes.expire(now);
  }

  // --- what tools ask ---

  /** A view, or undefined when there is no such topic. */
  describe(topic) {
    if (topic === "counters") return this.counters;
    if (topic === "routes") return this.routes.describe();
    if (topic === "interfaces") return [this.routes.describeInterface()];
    if (topic === "fragments") return []; // none is ever kept
    return undefined;
  }

  /**
   * Begin what a tool asks for. `answer(error, value)` is called once, now or later.
   * False: there is no such verb. Throws RangeError for arguments that cannot be.
   */
  ask(verb, words, now, answer) {
    if (verb === "route") this.askRoute(parse(words[0]), answer);
    else if (verb === "ping") this.ping(parse(words[0]), words.slice(1).map(Number), now, answer);
    else return false;
    return true;
  }

  askRoute(address, answer) {
    const row = this.routes.find(address);
    if (row === undefined) answer(`ENETUNREACH: no route to ${text(address)}`);
    else {
      answer(null, { via: row.via ? text(row.via) : "", dev: row.dev, src: text(row.src),
        mtu: row.mtu });
    }
  }

  ping(address, [size, milliseconds, identifier, sequence], now, answer) {
    this.pings = (this.pings + 1) & 0xffff;
    const numbers = [identifier ?? 0, sequence ?? this.pings];
    const rest = this.echoes.begin(size, milliseconds, ...numbers, now, answer);
    const body = Buffer.alloc(size);
    for (let index = 0; index < size; index += 1) body[index] = index & 0xff;
    this.count("icmp_out_echos");
    const failed = this.send({
      trace: 0, src: UNSPECIFIED, dst: address, protocol: ipv4.ICMP, tos: 0, ttl: 0,
      payload: icmp.encode(icmp.ECHO_REQUEST, 0, rest, body), dontFragment: false,
    }, now);
    if (failed) {
      this.echoes.end(rest, { from: text(failed.reporter), type: failed.type, code: failed.code,
        mtu: failed.mtu }, now);
    }
  }

  // --- the way down ---

  /** Send a packet, or say why not, as the fields of a PacketError; null when it is under way. */
  send(packet, now) {
    this.count("ip_out_requests");
    const row = this.routes.find(packet.dst);
    const reporter = this.routes.address;
    if (row === undefined) {
      this.count("ip_out_no_routes");
      return { reporter, type: icmp.UNREACHABLE, code: icmp.NET, mtu: 0 };
    }
    if (ipv4.HEADER + packet.payload.length > row.mtu) {
      this.count("ip_frag_fails");
      return { reporter, type: icmp.UNREACHABLE, code: icmp.TOO_BIG, mtu: row.mtu };
    }
    const local = this.routes.isLocal(row);
    const chosen = local ? this.localSource(packet.dst) : row.src;
    const src = same(packet.src, UNSPECIFIED) ? chosen : packet.src;
    if (!this.routes.mayBeSource(src, row)) {
      this.drop("source_not_own");
      return null;
    }
    const ttl = packet.ttl || this.ttl;
    if (local) this.deliver({ ...packet, src, ttl, group: false, whole: null }, now);
    else this.toLink({ ...packet, src, ttl }, row);
    return null;
  }

  localSource(dst) {
    return isLoopback(dst) ? Buffer.from(dst) : this.routes.address;
  }

  toLink(packet, row) {
    // RFC 6864 4.1: what cannot be cut needs no number of its own.
    if (!packet.dontFragment) this.ident = (this.ident + 1) & 0xffff;
    const ident = packet.dontFragment ? 0 : this.ident;
    this.outputs.push(["link", {
      kind: DATAGRAM, trace: packet.trace, ifindex: this.routes.ifindex,
      next_hop: row.via ?? packet.dst, flags: 0,
      packet: ipv4.encode({ ...packet, ident }, packet.payload),
    }]);
  }

  fromTcp(segment, now) {
    const failed = this.send({
      trace: segment.trace, src: segment.src, dst: segment.dst, protocol: segment.protocol,
      tos: segment.tos, ttl: segment.ttl, payload: segment.payload,
      dontFragment: (segment.flags & FLAG_DONT_FRAGMENT) !== 0,
    }, now);
    if (failed) this.tellTcp({ ...failed, local: 1, ...quoted(segment) }, segment.trace);
  }

  // --- the way up ---

  fromLink(datagram, now) {
    this.count("ip_in_receives");
    if (datagram.ifindex !== this.routes.ifindex) {
      this.drop("unknown_interface");
      return;
    }
    const header = this.readable(datagram.packet, "ip_in_hdr_errors");
    if (header === null) return;
    const toGroup = this.routes.isBroadcast(header.dst);
    if (!this.isGoodSource(header.src)) {
      this.count("ip_in_addr_errors");
      this.drop("bad_source");
    } else if (!toGroup && !this.routes.isOwn(header.dst)) {
      this.count("ip_in_addr_errors");
      this.drop("not_for_this_host");
    } else if (header.moreFragments || header.offset) {
      this.count("ip_reasm_reqds");
      this.count("ip_reasm_fails");
      this.drop("fragment");
    } else {
      const group = toGroup || (datagram.flags & FLAG_GROUP) !== 0;
      this.deliver({ ...header, trace: datagram.trace, group, whole: datagram.packet }, now);
    }
  }

  /** A packet's header and payload, or null when it is none: counted. */
  readable(packet, counter) {
    try {
      return ipv4.decode(packet);
    } catch (error) {
      if (!(error instanceof ipv4.BadPacket)) throw error;
      this.count(counter);
      this.drop(error.reason);
      return null;
    }
  }

  /** RFC 1122 3.2.1.3: a source is one host, and not this one. */
  isGoodSource(src) {
    return !isNoHost(src) && !this.routes.isBroadcast(src) && !this.routes.isOwn(src);
  }

  /**
   * A packet for this host, by its protocol. A TTL of 0 or 1 is no reason against it (RFC 1122
   * 3.2.1.7). whole: the packet as it came; null when it never left the host.
   */
  deliver(packet, now) {
    if (packet.protocol === ipv4.TCP) {
      this.count("ip_in_delivers");
      this.outputs.push(["tcp", {
        kind: SEGMENT, trace: packet.trace, protocol: packet.protocol, src: packet.src,
        dst: packet.dst, tos: packet.tos, ttl: packet.ttl, flags: packet.group ? FLAG_GROUP : 0,
        payload: packet.payload,
      }]);
    } else if (packet.protocol === ipv4.ICMP) {
      this.count("ip_in_delivers");
      this.fromIcmp(packet, now);
    } else {
      this.count("ip_in_unknown_protos");
      this.refuse(packet, packet.protocol === ipv4.UDP ? icmp.PORT : icmp.PROTOCOL, now);
    }
  }

  /** Nobody here takes this packet: say so to its source (RFC 1122 3.2.2.1), not too often. */
  refuse(packet, code, now) {
    this.drop(code === icmp.PORT ? "no_port" : "no_protocol");
    if (packet.whole === null) {
      this.tellTcp({ reporter: packet.dst, local: 1, type: icmp.UNREACHABLE, code, mtu: 0,
        ...quoted(packet) }, packet.trace);
    } else if (packet.group) {
      this.count("icmp_out_suppressed"); // RFC 1122 3.2.2: never about what came for a group
    } else if (!this.bucket.take(now)) {
      this.count("icmp_out_rate_limit_global");
    } else {
      this.count("icmp_out_dest_unreachs");
      this.answer(packet, icmp.encode(icmp.UNREACHABLE, code, 0, icmp.quotation(packet.whole)),
        now);
    }
  }

  /** Send an ICMP message back to where a packet came from, from the address that it asked. */
  answer(packet, payload, now) {
    this.count("icmp_out_msgs");
    this.send({
      trace: packet.trace, src: packet.dst, dst: packet.src, protocol: ipv4.ICMP, tos: packet.tos,
      ttl: 0, payload, dontFragment: false,
    }, now);
  }

  fromIcmp(packet, now) {
    this.count("icmp_in_msgs");
    let message;
    try {
      message = icmp.decode(packet.payload);
    } catch (error) {
      if (!(error instanceof ipv4.BadPacket)) throw error;
      this.count("icmp_in_errors");
      this.drop(error.reason);
      return;
    }
    const counter = ICMP_COUNTERS.get(message.type);
    if (counter === undefined) this.drop("icmp_type");
    else {
      this.count(counter);
      if (message.type === icmp.ECHO_REQUEST) this.echo(packet, message, now);
      else if (message.type === icmp.ECHO_REPLY) this.echoed(packet, message, now);
      else this.failed(packet, message, now);
    }
  }

  echo(packet, message, now) {
    if (packet.group) this.drop("echo_for_a_group"); // RFC 1122 3.2.2.6 allows that
    else {
      this.count("icmp_out_echo_reps");
      this.answer(packet, icmp.encode(icmp.ECHO_REPLY, 0, message.rest, message.body), now);
    }
  }

  echoed(packet, message, now) {
    const found = { from: text(packet.src), bytes: message.body.length, ttl: packet.ttl };
    if (!this.echoes.end(message.rest, found, now)) this.drop("echo_reply_nobody_waits_for");
  }

  /** An ICMP error: believed when it quotes a packet that can have come from here. */
  failed(packet, message, now) {
    let quote;
    try {
      quote = ipv4.decode(message.body, false);
    } catch (error) {
      if (!(error instanceof ipv4.BadPacket)) throw error;
      this.drop("icmp_bad_quote");
      return;
    }
    if (!this.routes.isOwn(quote.src) || quote.offset || quote.payload.length < LEAST_QUOTE) {
      this.drop("icmp_not_about_an_own_packet");
      return;
    }
    const { type, code } = message;
    const tooBig = type === icmp.UNREACHABLE && code === icmp.TOO_BIG;
    const error = { reporter: packet.src, local: 0, type, code,
      mtu: tooBig ? message.rest & 0xffff : 0 };
    this.report(error, quote, packet.trace, now);
  }

  neighbourFailed(message, now) {
    const quote = this.readable(message.packet, "ip_in_hdr_errors");
    if (quote === null) return;
    if (!this.routes.isOwn(quote.src)) {
      this.drop("neighbour_failed_for_a_foreign_packet");
      return;
    }
    this.count("ip_out_discards");
    const error = { reporter: this.routes.address, local: 1, type: icmp.UNREACHABLE,
      code: icmp.HOST, mtu: 0 };
    this.report(error, quote, message.trace, now);
  }

  /** Who sent the packet that something was wrong with is told: tcp, or a ping. */
  report(error, quote, trace, now) {
    if (quote.protocol === ipv4.TCP) {
      this.tellTcp({ ...error, ...quoted(quote) }, trace);
    } else if (quote.protocol === ipv4.ICMP && quote.payload[0] === icmp.ECHO_REQUEST) {
      const rest = Buffer.from(quote.payload.subarray(4, 8)).readUInt32BE();
      const found = { from: text(error.reporter), type: error.type, code: error.code,
        mtu: error.mtu };
      if (!this.echoes.end(rest, found, now)) this.drop("error_nobody_waits_for");
    } else this.drop("error_nobody_waits_for");
  }

  // --- neighbours ---

  /** A new tcp knows no path yet. */
  newTcp() {
    this.tcpIsThere = true;
    this.tellPaths();
  }

  interfaceIs(message) {
    if (message.ifindex !== this.routes.ifindex) this.drop("unknown_interface");
    else if (this.routes.change(message) && this.tcpIsThere) this.tellPaths();
  }

  tellPaths() {
    this.outputs.push(["tcp", { kind: PATHS, trace: 0, rows: this.routes.paths() }]);
  }

  tellTcp(error, trace) {
    this.outputs.push(["tcp", { kind: PACKET_ERROR, trace, ...error }]);
  }

  count(name) {
    this.counters[name] = (this.counters[name] ?? 0) + 1;
  }

  drop(reason) {
    this.count(`drop_${reason}`);
  }
}

/** The part of a PacketError that says which packet it is about. */
function quoted({ protocol, src, dst, payload }) {
  return { protocol, src, dst, quote: payload.subarray(0, QUOTE) };
}

const ICMP_COUNTERS = new Map([
  [icmp.ECHO_REPLY, "icmp_in_echo_reps"],
  [icmp.UNREACHABLE, "icmp_in_dest_unreachs"],
  [icmp.ECHO_REQUEST, "icmp_in_echos"],
  [icmp.TIME_EXCEEDED, "icmp_in_time_excds"],
  [icmp.PARAMETER_PROBLEM, "icmp_in_parm_probs"],
]);

/** Which messages each neighbour may send. */
const HANDLERS = {
  tcp: new Map([
    [HELLO, (core) => core.newTcp()],
    [SEGMENT, (core, message, now) => core.fromTcp(message, now)],
  ]),
  link: new Map([
    [HELLO, () => {}],
    [DATAGRAM, (core, message, now) => core.fromLink(message, now)],
    [NEIGHBOUR_FAILED, (core, message, now) => core.neighbourFailed(message, now)],
    [INTERFACE, (core, message) => core.interfaceIs(message)],
  ]),
};
