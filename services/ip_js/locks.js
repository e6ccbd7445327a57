/**
 * Exclusive `flock`s, as proto/pipes.md asks of who binds an inbox. Node has no flock, but the lock
 * belongs to the open file: util-linux's flock(1) takes it on a descriptor that it inherits, and
 * this process goes on holding it.
 */
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";

const ATTEMPTS = 6;
const FIRST = 3;

/** Somebody else has it. */
export class Held extends Error {}

/**
 * Take all of these, or throw Held. They are let go with the process, or by what is returned.
 * @param {string[]} paths
 * @returns {() => void}
 */
export function hold(paths) {
  const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
  const files = paths.map((path) => fs.openSync(path, flags, 0o600));
  // Whoever asks who holds a lock has it for an instant: hence the patience.
  const script = files.map((_, index) => `flock -x -w 0.02 ${FIRST + index} || exit ${1 + index}`);
  let status;
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const done = spawnSync("sh", ["-c", script.join("\n")],
      { stdio: ["ignore", "ignore", "inherit", ...files] });
    if (done.error) throw done.error;
    ({ status } = done);
    if (status === 0) break;
  }
  if (status > files.length) throw new Held("flock(1) is missing: install util-linux");
  if (status !== 0) {
    const path = paths[status - 1];
    const [pid] = fs.readFileSync(path, "utf8").split(" ");
    throw new Held(`${path} is held by process ${pid.trim() || "unknown"}: stop it first`);
  }
  for (const file of files) {
    fs.ftruncateSync(file, 0);
    fs.writeSync(file, `${process.pid} ${os.hostname()}\n`, 0);
  }  return () => files.forEach((file) => fs.closeSync(file));
}
