/** Where packets go: the host's own addresses, its one network, and gateways on that. */
import {
  LOOPBACK, isLoopback, mask, number, packed, parse, parsePrefix, same, text,
} from "./addresses.js";
import { MAX_PACKET } from "./header.js";

const LOCAL = "local";
const ALL_ONES = 0xffffffff;

/** The one interface, and the routes by way of it; both as the settings have them. */
export class Routes {
  constructor(interfaces, gateways) {
    const [first] = interfaces;
    [this.address, this.length] = parsePrefix(first.address);
    this.ifindex = first.ifindex;
    this.name = first.name;
    this.mac = first.mac;
    this.mtu = first.mtu;
    this.up = true;
    this.gateways = gateways.map(({ to, via }) => [...parsePrefix(to), parse(via)]);
    this.build();
  }

  /** The interface is now as link says; true when the routes are others than before. */
  change(message) {
    const [mtu, up] = [Math.max(message.mtu, 68), message.up === 1]; // RFC 791: every link's least
    const changed = mtu !== this.mtu || up !== this.up;
    Object.assign(this, { name: message.name, mac: message.mac, mtu, up });
    if (changed) this.build();
    return changed;
  }

  build() {
    const src = this.address;
    this.rows = [
      { net: number(src), length: 32, via: null, src, mtu: MAX_PACKET, dev: "lo", type: LOCAL },
      { net: 127 << 24, length: 8, via: null, src: LOOPBACK, mtu: MAX_PACKET, dev: "lo",
        type: LOCAL },
    ];
    if (this.up) {
      const way = { src, mtu: this.mtu, dev: this.name, type: "unicast" };
      this.rows.push({ ...way, net: number(src) & mask(this.length), length: this.length,
        via: null });
      for (const [net, length, via] of this.gateways) {
        this.rows.push({ ...way, net: number(net) & mask(length), length, via });
      }
    }
    for (const row of this.rows) row.net >>>= 0;
    this.rows.sort((a, b) => b.length - a.length);
  }

  /** The route to an address, the longest prefix first; undefined when there is none. */
  find(address) {
    const value = number(address);
    return this.rows.find((row) => (value & mask(row.length)) >>> 0 === row.net);
  }

  isOwn(address) {
    return same(address, this.address);
  }

  /** The limited broadcast, or that of the interface's network (RFC 3021: a /31 has none). */
  isBroadcast(address) {
    const value = number(address);
    if (value === ALL_ONES) return true;
    return this.length < 31 && value === (number(this.address) | ~mask(this.length)) >>> 0;
  }

  /** A packet may leave with this source: an own address, or loopback inside the host. */
  mayBeSource(address, row) {
    return this.isOwn(address) || (isLoopback(address) && row.type === LOCAL);
  }

  isLocal(row) {
    return row.type === LOCAL;
  }

  /** The rows of Paths. */
  paths() {
    return this.rows.map((row) => [packed(row.net), row.length, row.src, row.mtu]);
  }

  /** For `plywire route`. */
  describe() {
    return this.rows.map((row) => ({
      to: row.length ? `${text(packed(row.net))}/${row.length}` : "default",
      via: row.via ? text(row.via) : "", dev: row.dev, src: text(row.src), mtu: row.mtu,
      type: row.type,
    }));
  }

  describeInterface() {
    return {
      ifindex: this.ifindex, name: this.name, address: `${text(this.address)}/${this.length}`,
      mtu: this.mtu, up: this.up ? 1 : 0,
    };
  }
}
