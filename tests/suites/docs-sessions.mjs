// The sessions of the documents: a reader with an empty home, who does what a page tells, block by block.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFileSync, mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { blocks, read } from './docs-pages.mjs';
import { built, installed, root, scratch, start, until } from './lib.mjs';
import { Visitor } from './visitor.mjs';

/** Where the pages say that the reader is. */
const READERS_PLACE = '/home/ada/gateway';
const ORIGIN = 'http://127.0.0.1:7400';
/** Where operators are. */
const ADMIN_ORIGIN = 'http://127.0.0.1:7401';
/** Longest time for one command; a policy in the dev profile takes long to compile. */
export const COMMAND_MS = 60_000;
/** A first start makes keys; a policy that comes first is compiled. */
const TERMINAL_MS = 60_000;
const PROGRAMS = ['portcullis', 'portcullis-example-upstreams'];
/** npm packages that pages start with npx, with the file that is started. */
const PACKAGES = {
  '@modelcontextprotocol/inspector': 'clients/launcher/build/index.js',
  'mcp-remote': 'dist/proxy.js',
};

/** Commands of a session, each with what is to be printed. Lines with `> ` go on with the command above them. */
function commands(text) {
  return text.split(/^\$ /m).slice(1).map((part) => {
    const lines = part.split('\n');
    let length = 1;
    while (lines[length]?.startsWith('> ')) length += 1;
    const command = lines.slice(0, length).map((line, at) => (at === 0 ? line : line.slice(2))).join('\n');
    return { command, output: lines.slice(length).join('\n') };
  });
}

/** Commands and what they printed, as a page has them. */
const session = (all) => all.map(({ command, output }) => (
  `$ ${command.replaceAll('\n', '\n> ')}\n${output.trimEnd()}`.trimEnd().concat('\n')
)).join('');

/** What differs from run to run, made equal; of spaces between columns, two are left. */
function plain(text, dir) {
  return text
    .replaceAll(dir, READERS_PLACE)
    .replaceAll(/pk_[A-Za-z0-9_-]{43}/g, 'pk_…')
    .replaceAll(/\b[a-z0-9]{5}(-[a-z0-9]{5}){3}\b/g, 'PASSWORD')
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replaceAll(/\/setup#psu_[A-Za-z0-9_-]+/g, '/setup#LINK')
    .replaceAll(/\/connect\/link#[A-Za-z0-9_-]+/g, '/connect/link#LINK')
    .replaceAll(/\b\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT/g, 'TIME')
    .replaceAll(/\b([0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{24})\b/g, 'ID')
    .replaceAll(/(?<![\w-])[A-Za-z0-9_-]{43}(?![\w-])/g, 'KID')
    .replaceAll(/\b(generation|epoch) \d+|\b(replaced)-\d+|\b\d+ (rows)\b/g, '$1$2$3 N')
    .replaceAll(/\b\d+(\.\d+)? ?(ms|µs|s)\b/g, 'SPAN')
    .replaceAll(/"(\w+_ms)":"?[\d.]+"?/g, '"$1":"N"')
    .replaceAll(/(\S) {2,}/g, '$1  ')
    .replaceAll(/[ \t]+$/gm, '')
    .trimEnd();
}

/** Whether a gateway is ready, whoever vouches for its certificate. */
function isReady(origin) {
  const { get } = origin.startsWith('https:') ? https : http;
  return new Promise((resolve) => {
    const asked = get(`${origin}/readyz`, { rejectUnauthorized: false }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.on('error', () => resolve(false));
  });
}

/** A reader: an empty home, the programs on the way, and a shell. */
class Reader {
  #output = '';
  #terminals = [];
  /** The one in which the gateway runs. */
  #gateway;
  #endings = [];
  #password;
  /** Where connections are made, as it was printed last. */
  link;
  /** Where the first owner's account is made, as it was printed last. */
  setUpLink;

  constructor(page) {
    this.page = page;
    this.name = `docs-${page.replaceAll(/[^a-z0-9]+/gi, '-')}`;
    this.dir = path.join(realpathSync(scratch()), 'gateway');
    mkdirSync(this.dir);
    this.env = { PATH: `${programs()}:${process.env.PATH}`, HOME: realpathSync(scratch()), NO_COLOR: '1', LANG: 'C.UTF-8',
      // The inspector and mcp-remote open what this names; the reader of the suite has a browser of their own.
      BROWSER: '/bin/true', MCP_AUTO_OPEN_ENABLED: 'true', MCP_INSPECTOR_SECRET_STORE: 'file' };
    const loop = 'exec 2>&1; while IFS= read -r -d "" -u 3 todo; do eval "$todo"; printf "\\n@@ %s\\n" $?; done';
    this.shell = spawn('bash', ['-c', loop], { cwd: this.dir, env: this.env, stdio: ['ignore', 'pipe', 'ignore', 'pipe'] });
    this.shell.stdout.setEncoding('utf8').on('data', (text) => (this.#output += text));
  }

  /** Types a command, and returns what it prints. */
  async type(command, asked) {
    this.#output = '';
    this.shell.stdio[3].write(`${command}\0`);
    let visited = asked === undefined;
    const [, printed] = await until(`\`${command}\` ends`, async () => {
      const [, address] = /^.*?(?:navigate to|visiting):?\s+(http\S+)/ms.exec(this.#output) ?? [];
      if (!visited && address !== undefined) {
        visited = true;
        await asked(address, this.#password);
      }
      return /^([\s\S]*?)\n@@ \d+\n$/.exec(this.#output);
    }, COMMAND_MS).catch((error) => {
      throw new Error(`${error.message}\nso far it printed:\n${this.#output}`);
    });
    assert.ok(visited, `it sent nobody to a browser:\n${printed}`);
    this.link = /http\S+\/connect\/link#[A-Za-z0-9_-]+/.exec(printed)?.[0] ?? this.link;
    this.setUpLink = /http\S+\/setup#psu_[A-Za-z0-9_-]+/.exec(printed)?.[0] ?? this.setUpLink;
    this.#password = /\b[a-z0-9]{5}(?:-[a-z0-9]{5}){3}\b/.exec(printed)?.[0] ?? this.#password;
    return printed;
  }

  /** Begins what goes on in another terminal, and returns once it has printed as much as `output`. A gateway is stopped before another one begins. */
  async open(command, output) {
    const isGateway = command.startsWith('portcullis serve');
    if (isGateway && this.#gateway !== undefined) {
      this.#terminals = this.#terminals.filter((terminal) => terminal !== this.#gateway);
      this.#endings.push(await this.#gateway.stop());
    }
    const running = start(`${this.name}-${this.#terminals.length + this.#endings.length}`, ['bash', '-c', `exec ${command}`], { cwd: this.dir, env: this.env });
    this.#terminals.push(running);
    const said = () => readFileSync(running.logFile, 'utf8');
    const lines = output.trimEnd().split('\n').length;
    await until(`\`${command}\` prints ${lines} lines`, () => {
      running.assertRunning();
      return said().split('\n').length > lines;
    }, TERMINAL_MS);
    if (isGateway) {
      this.#gateway = running;
      const [, origin] = /"public_url":"(https?:[^"]+)"/.exec(said()) ?? [];
      await until('the gateway is ready', () => isReady(origin ?? ORIGIN), TERMINAL_MS);
    }
    return said().split('\n').slice(0, lines).join('\n');
  }

  /** Closes all terminals, and returns how what ran in them ended. */
  async leave() {
    this.shell.stdio[3].end('kill $(jobs -p) 2>/dev/null; wait\0');
    const ended = new Promise((resolve) => this.shell.once('close', resolve));
    const endings = this.#endings;
    for (const terminal of this.#terminals.reverse()) endings.push(await terminal.stop());
    await Promise.race([ended, wait(15_000).then(() => this.shell.kill('SIGKILL'))]);
    return endings;
  }
}

let programsDir;

/** A folder with the programs that pages name. */
function programs() {
  if (programsDir !== undefined) return programsDir;
  programsDir = scratch();
  for (const program of PROGRAMS) symlinkSync(built(program), path.join(programsDir, program));
  const cases = Object.entries(PACKAGES).map(([name, file]) => `${name}) shift; exec "${process.execPath}" "${installed(`${name}/${file}`)}" "$@" ;;`);
  writeFileSync(path.join(programsDir, 'npx'), `#!/bin/sh\ncase "$1" in\n${cases.join('\n')}\n*) exit 127 ;;\nesac\n`, { mode: 0o755 });
  return programsDir;
}

/** Signs in and consents, as who was added last. */
async function visit(address, password) {
  const visitor = await Visitor.arrive({ origin: ORIGIN });
  try {
    await visitor.consent(address, { login: 'ada', password });
    visitor.assertUntroubled();
  } finally {
    await visitor.leave();
  }
}

/** Opens the link with which the first owner makes their account, and makes it. */
async function own(link) {
  const visitor = await Visitor.arrive({ origin: ADMIN_ORIGIN });
  try {
    await visitor.page.goto(link);
    for (const [name, value] of [['login', 'grace'], ['name', 'Grace'], ['password', 'a few words that nobody else says']]) {
      await visitor.page.locator(`input[name=${name}]`).fill(value);
    }
    await visitor.page.locator('form[action$="/setup"] button').click();
    await visitor.page.locator('a[href="/me"]').first().waitFor();
    visitor.assertUntroubled();
  } finally {
    await visitor.leave();
  }
}

/** Opens a link for connecting, and gives a value for each header that is asked for. */
async function connect(link) {
  const visitor = await Visitor.arrive({ origin: ORIGIN });
  try {
    await visitor.page.goto(link);
    const fields = visitor.page.locator('input[name^="header-"]');
    await fields.first().waitFor();
    for (const field of await fields.all()) await field.fill('a-value-of-ones-own');
    await visitor.page.locator('form[action*="/connect/"] button').click();
    await visitor.page.getByText(/go back to your agent/i).waitFor();
    visitor.assertUntroubled();
  } finally {
    await visitor.leave();
  }
}

/** Does what a page tells, block by block. */
export async function checkSession(report, page, writes) {
  const todo = blocks(page).filter(({ mark }) => ['session', 'file', 'more'].includes(mark));
  const reader = new Reader(page);
  let rewritten = read(page);
  const same = (got, wanted) => assert.equal(plain(got, reader.dir), plain(wanted, reader.dir));
  for (const { mark, of, text, line } of todo) {
    const write = mark === 'file' ? writeFileSync : appendFileSync;
    if (mark !== 'session') {
      mkdirSync(path.dirname(path.join(reader.dir, of)), { recursive: true });
      write(path.join(reader.dir, of), text);
      continue;
    }
    if (of === 'owner') await report.check(`${page}:${line} somebody becomes the first owner by the link`, () => own(reader.setUpLink));
    if (of === 'connect') await report.check(`${page}:${line} somebody connects by the link`, () => connect(reader.link));
    const printed = [];
    for (const { command, output } of commands(text)) {
      await report.check(`${page}:${line} $ ${command.split('\n')[0].slice(0, 90)}`, async () => {
        let got = output;
        try {
          got = of === 'terminal' ? await reader.open(command, output) : await reader.type(command, of === 'person' ? visit : undefined);
          same(got, output);
        } finally {
          const isSame = plain(got, reader.dir) === plain(output, reader.dir);
          printed.push({ command, output: isSame ? output : got.replaceAll(reader.dir, READERS_PLACE) });
        }
      }, { within: COMMAND_MS + 5_000 });
    }
    rewritten = rewritten.replace(text, session(printed));
  }
  if (writes) writeFileSync(path.join(root, page), rewritten);
  await report.check(`${page}: what was started ends when it is told to`, async () => {
    for (const ending of await reader.leave()) assert.ok([0, 'SIGTERM', 143].includes(ending), `it ended with ${ending}`);
  });
}
