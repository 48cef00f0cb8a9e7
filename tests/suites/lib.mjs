// What the suites written in JavaScript share: a report of named checks, processes that never outlive the suite,
// a relay between two HTTP peers, and the gateway under test with a configuration made for it.
//
// Deliberately no test framework: a check is a sentence and a function, and the closing line is what tests/run reads.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The folder of the repository. */
export const root = fileURLToPath(new URL('../..', import.meta.url));
const logs = process.env.PORTCULLIS_TEST_LOGS ?? path.join(root, 'target/test-logs');
const binaries = process.env.PORTCULLIS_BINARIES ?? path.join(root, 'target/debug');

/** Longest time for one check, unless it says otherwise. */
const CHECK_MS = 30_000;
/** How much of a failure's text is printed. */
const FAILURE_LINES = 40;
/** Longest time for a server to become ready. */
const START_MS = 30_000;
/** Longest time for a server to end after it was told to. */
const STOP_MS = 15_000;

/** A program that cargo built. */
export const built = (name) => path.join(binaries, name);
/** A file of an npm package that tests/package.json pins. */
export const installed = (file) => path.join(root, 'tests/node_modules', file);
/** A file of this folder. */
export const suiteFile = (name) => path.join(root, 'tests/suites', name);

// ---- checks ---------------------------------------------------------------------------------------------------

/** Counts named checks and prints a line for each. */
export class Report {
  #suite;
  #passed = 0;
  #failed = 0;

  constructor(suite) {
    this.#suite = suite;
  }

  /** Runs one check. It never throws: what comes after it runs as well. */
  async check(sentence, body, { within = CHECK_MS } = {}) {
    const began = performance.now();
    let timer;
    const deadline = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${within} ms`)), within);
    });
    try {
      await Promise.race([body(), deadline]);
      this.#passed += 1;
      console.log(`ok    ${sentence} (${Math.round(performance.now() - began)} ms)`);
      return true;
    } catch (error) {
      this.fail(sentence, error);
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  pass(sentence) {
    this.#passed += 1;
    console.log(`ok    ${sentence}`);
  }

  fail(sentence, error) {
    this.#failed += 1;
    const text = error instanceof assert.AssertionError ? error.message : (error?.stack ?? String(error));
    const lines = text.split('\n');
    if (lines.length > FAILURE_LINES) lines.splice(FAILURE_LINES, Infinity, `… ${lines.length} lines in all`);
    console.log(`FAIL  ${[sentence, ...lines].join('\n      ')}`);
    if (error?.cause !== undefined) console.log(`      because: ${error.cause}`);
  }

  /** Prints the closing line and sets the exit code. A suite that checked nothing has failed. */
  finish() {
    console.log(`${this.#suite}: ${this.#passed} passed, ${this.#failed} failed`);
    process.exitCode = this.#failed === 0 && this.#passed > 0 ? 0 : 1;
  }
}

/** Runs a suite from its first server to its closing line; whatever happens, nothing is left running. */
export async function suite(name, body) {
  mkdirSync(logs, { recursive: true });
  const report = new Report(name);
  try {
    await body(report);
  } catch (error) {
    report.fail(`the ${name} suite can run`, error);
  } finally {
    await stopAll();
    for (const dir of scratchDirs) rmSync(dir, { recursive: true, force: true });
  }
  report.finish();
  // Clients under test may still hold timers or sockets; the verdict is out and must not wait for them.
  process.exit();
}

/** Waits until `probe` returns something true, and returns it. Refusals to connect count as "not yet". */
export async function until(what, probe, within = START_MS) {
  const deadline = performance.now() + within;
  let last;
  while (performance.now() < deadline) {
    try {
      const answer = await probe();
      if (answer) return answer;
    } catch (error) {
      if (error instanceof Ended) throw error;
      last = error;
    }
    await wait(50);
  }
  throw new Error(`${what}: not within ${within} ms`, { cause: last });
}

// ---- processes ------------------------------------------------------------------------------------------------

class Ended extends Error {}

const children = new Set();
const servers = new Set();
const scratchDirs = new Set();

/** A directory of the suite's own, removed at its end. */
export function scratch() {
  const dir = mkdtempSync(path.join(tmpdir(), 'portcullis-'));
  scratchDirs.add(dir);
  return dir;
}

/**
 * Starts a program whose output goes to a log named after it. Of our environment it sees only `PATH` and what `env`
 * names.
 */
export function start(name, command, { env = {}, cwd } = {}) {
  const logFile = path.join(logs, `${name}.log`);
  // Opened here and now: what an earlier program of this name has left there is read by nobody.
  const log = createWriteStream(logFile, { fd: openSync(logFile, 'w') });
  const child = spawn(command[0], command.slice(1), {
    cwd,
    env: { PATH: process.env.PATH, HOME: scratch(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  // Resolves once: with the exit code, the signal's name, or the reason why it never started.
  const ended = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => log.end(() => resolve(code ?? signal)));
  }).then((how) => {
    children.delete(running);
    running.how = how;
    return how;
  });
  const running = {
    pid: child.pid,
    how: undefined,
    logFile,
    /** Fails if the program has ended by itself. */
    assertRunning() {
      if (running.how !== undefined) throw new Ended(`${name} ended (${running.how}); see ${logFile}`);
    },
    /** Asks it to end, and does not wait. */
    kill() {
      child.kill('SIGTERM');
    },
    /** Asks it to end, insists after a while, and returns how it ended. */
    async stop() {
      child.kill('SIGTERM');
      const insist = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      const how = await ended;
      clearTimeout(insist);
      return how;
    },
  };
  children.add(running);
  return running;
}

/** Runs a program to its end and returns what it said. */
export async function run(command, { env = {}, cwd, within = CHECK_MS } = {}) {
  const child = spawn(command[0], command.slice(1), {
    cwd,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: within,
    killSignal: 'SIGKILL',
  });
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr']) {
    child[stream].setEncoding('utf8').on('data', (text) => (said[stream] += text));
  }
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (exit, signal) => resolve(exit ?? signal));
  });
  return { ...said, code };
}

async function stopAll() {
  await Promise.all([...children].map((child) => child.stop()));
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => void stopAll().finally(() => process.exit(130)));
}

// Whatever ends the suite early, an unread pipe included, ends what it started.
process.once('exit', () => {
  for (const child of children) child.kill();
});

/** Process ids of the children of `pid`. */
export function childrenOf(pid) {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((entry) => statusOf(entry)?.parent === pid)
    .map(Number);
}

/** Whether a process exists and has not merely left its exit code behind. */
export function isAlive(pid) {
  const status = statusOf(pid);
  return status !== undefined && status.state !== 'Z';
}

function statusOf(pid) {
  try {
    // `pid (name) state parent …`, where the name may hold anything.
    const [state, parent] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
    return { state, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

// ---- network --------------------------------------------------------------------------------------------------

/** A loopback port that was free a moment ago. */
export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/**
 * Passes HTTP from `port` to the origin `target` as it came, `Host` and `Origin` included. `add` holds headers that
 * the client cannot send itself; `seen` is called with each request's header object and whole body; `from` names the address
 * of this machine that each request comes from.
 */
export async function relay({ port, target, add = {}, seen = () => {}, from = () => '127.0.0.1' }) {
  const { hostname, port: targetPort } = new URL(target);
  const server = http.createServer((request, response) => {
    const headers = [...request.rawHeaders, ...Object.entries(add).flat()];
    const onward = http.request({
      host: hostname, port: targetPort, method: request.method, path: request.url, headers, setHost: false,
      localAddress: from(),
    });
    const body = [];
    request.on('data', (chunk) => body.push(chunk));
    request.on('end', () => seen(request.headers, Buffer.concat(body).toString()));
    request.pipe(onward);
    onward.on('response', (answer) => {
      response.writeHead(answer.statusCode, answer.statusMessage, answer.rawHeaders);
      response.flushHeaders();
      answer.pipe(response);
      answer.on('error', () => response.destroy());
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
  });
  servers.add(server.listen(port, '127.0.0.1'));
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
}

// ---- the gateway ----------------------------------------------------------------------------------------------

/** Starts the gateway with a configuration text and waits until it says that it is ready. `before` is what runs it, if anything does. */
export async function startGateway(name, config, { origin, env, before = [] }) {
  const file = path.join(scratch(), 'portcullis.toml');
  writeFileSync(file, config);
  const gateway = start(name, [...before, built('portcullis'), 'serve', '--config', file], { env });
  await until(`${name} is ready`, async () => {
    gateway.assertRunning();
    return (await fetch(`${origin}/readyz`)).ok;
  });
  return gateway;
}

/** A value as TOML writes it; JSON's strings, numbers, booleans and arrays of them are TOML's as well. */
export const toml = (value) => JSON.stringify(value);
