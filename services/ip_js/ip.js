/**
 * The ip role as a program: `node ip.js SETTINGS`, as proto/pipes.md says under "Starting a
 * program". It prints `ready` when its inboxes are bound (a successor first `prepared`), logs on standard error, and ends on
 * SIGTERM, or with a supervisor also at the end of its standard input.
 */
import fs from "node:fs";

const EXIT_CONFIG = 2;
const ALIVE_MS = 2000;

let name = "ip";

function log(level, words) {
  const when = new Date().toISOString().replace("Z", "");
  fs.writeSync(2, `${when} ${name} ${level} ${words}\n`);
}

function refuse(words) {
  log("ERROR", words);
  process.exit(EXIT_CONFIG);
}

/** Tell who cannot see this process that it is well: a file, touched by its loop. */
function showLife(path) {
  fs.writeFileSync(path, `${process.hrtime.bigint()}\n`, { mode: 0o600 });
  setInterval(() => fs.utimesSync(path, new Date(), new Date()), ALIVE_MS);
  return () => fs.rmSync(path, { force: true });
}

async function main() {
  let settings;
  try {
    settings = JSON.parse(process.argv[2] ?? "");
  } catch (error) {
    refuse(`the settings, one JSON object as the only argument, cannot be read: ${error.message}`);
  }
  name = `${settings.host}.ip`;
  let shell;
  let forget = () => {};
  const end = () => {
    forget();
    process.exit(0); // sockets and locks go with the process
  };
  const mindInput = () => {
    if (settings.supervised) process.stdin.on("end", end).on("error", end).resume();
  };
  process.on("SIGTERM", end);
  process.on("SIGINT", settings.supervised ? () => {} : end); // Ctrl-C is for the supervisor
  try {
    const { Shell } = await import("./shell.js");
    shell = new Shell(settings);
    await shell.prepare();
    if (settings.successor) {
      mindInput();
      const turn = shell.handover.turn();
      fs.writeSync(1, "prepared\n");
      await turn;
    }
    await shell.open();
  } catch (error) {
    if (error.code === "ERR_MODULE_NOT_FOUND") {
      refuse("an npm package is missing: run `npm install --no-package-lock` in services/ip_js");
    }
    if (error instanceof RangeError) refuse(`${settings.host} ${error.message}`);
    refuse(error.message);
  }
  if (!settings.supervised) forget = showLife(`${settings.directory}/${settings.host}.ip.alive`);
  else if (!settings.successor) mindInput();
  log("INFO", `ip runs as ${settings.implementation} (pid ${process.pid})`);
  fs.writeSync(1, "ready\n");
  shell.handover.ready();
  await shell.run();
  end(); // a successor has taken over
}

process.on("uncaughtException", (error) => {
  fs.writeSync(2, `${error.stack}\n`);
  log("ERROR", `${error.name}: ${error.message}`);
  process.exit(1);
});
await main();
