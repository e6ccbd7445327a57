import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, parsePrefix } from "../addresses.js";
import { INTERFACE } from "../messages.js";
import { Routes } from "../routes.js";

const ETH0 = { ifindex: 1, name: "eth0", address: "10.0.0.1/24", mac: "02:00:0a:00:00:01",
  mtu: 1500 };
const GATEWAYS = [{ to: "0.0.0.0/0", via: "10.0.0.254" }, { to: "10.9.0.0/16", via: "10.0.0.3" }];

test("the longest prefix wins", () => {
  const routes = new Routes([ETH0], GATEWAYS);
  const via = (address) => routes.find(parse(address)).via?.join(".") ?? null;
  assert.equal(via("10.0.0.7"), null);
  assert.equal(via("10.9.200.1"), "10.0.0.3");
  assert.equal(via("10.8.0.1"), "10.0.0.254");
  assert.equal(via("255.1.1.1"), "10.0.0.254");
  assert.equal(routes.find(parse("10.0.0.1")).dev, "lo");
  assert.equal(routes.find(parse("127.200.0.1")).dev, "lo");
});

test("an interface that goes down takes its routes along, and brings them back", () => {
  const routes = new Routes([ETH0], GATEWAYS);
  const now = { kind: INTERFACE, ifindex: 1, name: "eth0", mac: Buffer.alloc(6), mtu: 1500, up: 0 };
  assert.equal(routes.change(now), true);
  assert.equal(routes.find(parse("10.0.0.7")), undefined);
  assert.equal(routes.find(parse("10.0.0.1")).dev, "lo");
  assert.equal(routes.change(now), false);
  assert.equal(routes.change({ ...now, up: 1, mtu: 1300 }), true);
  assert.equal(routes.find(parse("10.0.0.7")).mtu, 1300);
});

test("which addresses are broadcasts", () => {
  const routes = new Routes([ETH0], []);
  assert.ok(routes.isBroadcast(parse("255.255.255.255")));
  assert.ok(routes.isBroadcast(parse("10.0.0.255")));
  assert.ok(!routes.isBroadcast(parse("10.0.1.255")));
  const narrow = new Routes([{ ...ETH0, address: "10.0.0.0/31" }], []); // RFC 3021
  assert.ok(!narrow.isBroadcast(parse("10.0.0.1")));
});

test("what is no address", () => {
  for (const word of ["", "10.0.0", "10.0.0.256", "10.0.0.01", "10.0.0.1.2", "h2", null]) {
    assert.throws(() => parse(word), RangeError);
  }
  for (const word of ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/1/2"]) {
    assert.throws(() => parsePrefix(word), RangeError);
  }
});
