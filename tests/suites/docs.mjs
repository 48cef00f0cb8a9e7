// The book in docs/, held to what it says: its terminal sessions are run against the gateway, its links lead somewhere, its
// pieces of configuration and its commands are known to the program.
//
//   node docs.mjs            everything
//   node docs.mjs PAGE…      the sessions of some pages alone, such as docs/getting-started.md
//   node docs.mjs --write PAGE…  the same, and what a command prints now takes the place of what the page says
//
// What a fenced block is, a comment in the line above it says:
//
//   <!-- session -->            commands with what they print; all of a page are run in one shell, in an empty home
//   <!-- session: terminal -->  one command that goes on, in a terminal of its own; what it prints first
//   <!-- session: person -->    commands of which one sends somebody to a browser, who signs in as the page said before
//   <!-- session: connect -->   commands after somebody followed the link that was printed last, and gave a value there
//   <!-- file: NAME -->         a file that the reader writes at this place of the session
//   <!-- more: NAME -->         lines that the reader adds to it
//   <!-- whole -->              configuration that is valid as it stands, beside the upstreams that it names
//   <!-- not run: REASON -->    a session that is for reading only
//   <!-- of: PROGRAM -->        TOML that is another program's

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, readdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { built, installed, root, run, scratch, start, suite, until } from './lib.mjs';
import { Visitor, closeChromium } from './visitor.mjs';

/** Where the pages say that the reader is. */
const READERS_PLACE = '/home/ada/gateway';
const ORIGIN = 'http://127.0.0.1:7400';
const COMMAND_MS = 60_000;
/** A first start makes keys; a policy that comes first is compiled. */
const TERMINAL_MS = 60_000;
const PROGRAMS = ['portcullis', 'portcullis-example-upstreams'];
/** npm packages that pages start with npx, with the file that is started. */
const PACKAGES = {
  '@modelcontextprotocol/inspector': 'clients/launcher/build/index.js',
  'mcp-remote': 'dist/proxy.js',
};
/** Languages of blocks in which no command stands. */
const NO_COMMANDS = ['toml', 'json', 'jsonc', 'rust', 'mermaid', 'sql', 'wit', 'yaml', 'js', 'python'];

// ---- pages ----------------------------------------------------------------------------------------------------

/** Every page of the repository, by its path from the root. */
function pages(folder = '') {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) return /^(node_modules|target|\..*|portcullis-.*)$/.test(entry.name) ? [] : pages(name);
    return entry.name.endsWith('.md') ? [name] : [];
  });
}

const read = (page) => readFileSync(path.join(root, page), 'utf8');

/** The fenced blocks of a page: `language`, `text`, `line`, and what the comment above says, as `mark` and `of`. */
function blocks(page) {
  const found = [];
  let open;
  let above = '';
  for (const [at, line] of read(page).split('\n').entries()) {
    const fence = /^( *)(`{3,})([a-z]*)/.exec(line);
    if (open === undefined && fence !== null) {
      const [, mark, of] = /^<!-- (session|file|more|whole|not run|of)(?:: (.+?))? -->$/.exec(above) ?? [];
      open = { page, language: fence[3], fence: fence[2], indent: fence[1].length, line: at + 1, mark, of, lines: [] };
    } else if (open !== undefined && line.trim() === open.fence) {
      found.push({ ...open, text: open.lines.map((text) => `${text.slice(open.indent)}\n`).join('') });
      open = undefined;
      above = '';
    } else if (open !== undefined) {
      open.lines.push(line);
    } else if (line.trim() !== '') {
      above = line.trim();
    }
  }
  assert.equal(open, undefined, `${page}: a block is never closed`);
  return found;
}

const place = ({ page, line }) => `${page}:${line}`;

/** A page without its blocks, and without code in its lines. */
function prose(page) {
  const inBlocks = new Set(blocks(page).flatMap(({ line, lines }) => (
    Array.from({ length: lines.length + 2 }, (_, n) => line - 1 + n)
  )));
  return read(page).split('\n').map((line, at) => (inBlocks.has(at) ? '' : line.replaceAll(/`[^`]*`/g, '')));
}

// ---- sessions -------------------------------------------------------------------------------------------------

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
    .replaceAll(/\/connect\/link#[A-Za-z0-9_-]+/g, '/connect/link#LINK')
    .replaceAll(/\b\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT/g, 'TIME')
    .replaceAll(/\b([0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{24})\b/g, 'ID')
    .replaceAll(/(?<![\w-])[A-Za-z0-9_-]{43}(?![\w-])/g, 'KID')
    .replaceAll(/\b(generation|epoch) \d+|\b(replaced)-\d+|\b\d+ (rows)\b/g, '$1$2$3 N')
    .replaceAll(/\b\d+(\.\d+)? ?(ms|µs|s)\b/g, 'SPAN')
    .replaceAll(/"elapsed_ms":"\d+"/g, '"elapsed_ms":"N"')
    .replaceAll(/(\S) {2,}/g, '$1  ')
    .replaceAll(/[ \t]+$/gm, '')
    .trimEnd();
}

/** A reader: an empty home, the programs on the way, and a shell. */
class Reader {
  #output = '';
  #terminals = [];
  #password;
  /** Where connections are made, as it was printed last. */
  link;

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
    this.#password = /\b[a-z0-9]{5}(?:-[a-z0-9]{5}){3}\b/.exec(printed)?.[0] ?? this.#password;
    return printed;
  }

  /** Begins what goes on in another terminal, and returns once it has printed as much as `output`. */
  async open(command, output) {
    const running = start(`${this.name}-${this.#terminals.length}`, ['bash', '-c', `exec ${command}`], { cwd: this.dir, env: this.env });
    this.#terminals.push(running);
    const said = () => readFileSync(running.logFile, 'utf8');
    const lines = output.trimEnd().split('\n').length;
    await until(`\`${command}\` prints ${lines} lines`, () => {
      running.assertRunning();
      return said().split('\n').length > lines;
    }, TERMINAL_MS);
    if (command.startsWith('portcullis serve')) {
      await until('the gateway is ready', async () => (await fetch(`${ORIGIN}/readyz`)).ok, TERMINAL_MS);
    }
    return said().split('\n').slice(0, lines).join('\n');
  }

  /** Closes all terminals, and returns how what ran in them ended. */
  async leave() {
    this.shell.stdio[3].end('kill $(jobs -p) 2>/dev/null; wait\0');
    const ended = new Promise((resolve) => this.shell.once('close', resolve));
    const endings = [];
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
async function checkSession(report, page, writes) {
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

// ---- links ----------------------------------------------------------------------------------------------------

/** The anchors of a page's headings, as they are made where such pages are shown. */
function anchors(page) {
  const seen = new Map();
  const inBlocks = new Set(blocks(page).flatMap(({ line, lines }) => lines.map((_, n) => line + n)));
  const headings = read(page).split('\n').filter((line, at) => /^#{1,6} /.test(line) && !inBlocks.has(at));
  return new Set(headings.map((heading) => {
    const text = heading.replace(/^#+ +/, '').replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').trim().toLowerCase();
    const anchor = text.replaceAll(/[^\p{L}\p{N}_ -]/gu, '').replaceAll(' ', '-');
    const before = seen.get(anchor) ?? 0;
    seen.set(anchor, before + 1);
    return before === 0 ? anchor : `${anchor}-${before}`;
  }));
}

/** Links of a page to files of the repository: `to`, without its anchor, and `anchor`. */
function links(page) {
  return prose(page).flatMap((line, at) => [...line.matchAll(/\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)|(?:href|src)="([^"]+)"/g)]
    .map((match) => match[1] ?? match[2] ?? match[3])
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [file, anchor] = target.split('#');
      const to = file === '' ? page : path.normalize(path.join(path.dirname(page), file));
      return { page, line: at + 1, target, to: to.replace(/\/$/, ''), anchor };
    }));
}

function checkLinks(report, all) {
  return report.check(`links of ${all.length} pages lead to what is there`, () => {
    const found = all.flatMap(links);
    const broken = found.filter(({ to, anchor }) => {
      if (to.startsWith('..') || !existsSync(path.join(root, to))) return true;
      return anchor !== undefined && to.endsWith('.md') && !anchors(to).has(anchor);
    });
    console.log(`${found.length} links`);
    assert.ok(found.length > 100, 'hardly any links were found');
    assert.deepEqual(broken.map((link) => `${place(link)} ${link.target}`), []);
  });
}

/** The pages of docs that a link shows: of a folder, its README, or all if there is none. */
function shownAt(to, all) {
  const inside = all.filter((page) => page.startsWith('docs/') && path.dirname(page) === to);
  const readme = path.join(to, 'README.md');
  if (to.startsWith('docs/') && all.includes(to)) return [to];
  return inside.includes(readme) ? [readme] : inside;
}

function checkContents(report, all) {
  return report.check('every page of docs can be reached from its table of contents', () => {
    const reached = new Set(['docs/README.md']);
    for (const page of reached) {
      for (const { to } of links(page)) {
        for (const shown of shownAt(to, all)) reached.add(shown);
      }
    }
    assert.deepEqual(all.filter((page) => page.startsWith('docs/') && !reached.has(page)), []);
  });
}

// ---- configuration --------------------------------------------------------------------------------------------

/** A whole file begins with its name, or is one that the reader writes. */
const isWhole = ({ mark, of, text }) => (
  mark === 'whole' || (mark === 'file' && of.endsWith('portcullis.toml')) || text.startsWith('# portcullis.toml\n')
);
/** A configuration with the upstreams that its policies are bound to. */
function withUpstreams({ mark, text }) {
  if (mark !== 'whole') return text;
  const named = [...text.matchAll(/\bupstreams = \[([^\]]*)\]/g)].flatMap(([, list]) => [...list.matchAll(/"([a-z0-9-]+)"/g)].map(([, name]) => name));
  return text + [...new Set(named)].map((name) => `\n[upstreams.${name}]\nurl = "http://127.0.0.1:9/mcp"\n`).join('');
}
/** What is wrong with a piece whatever stands around it. */
const WRONG_ANYWHERE = /^unknown key|must be an? |must be one of/;
/** Stops the program before it compiles policies, which a piece has no need of. */
const ENOUGH = 'known_to_nobody = 1\n';

/** What the program says of a configuration, line by line; nothing where it is valid. */
async function mistakes(text) {
  const dir = scratch();
  const file = path.join(dir, 'portcullis.toml');
  writeFileSync(file, text);
  const env = Object.fromEntries([...text.matchAll(/env:([A-Z_][A-Z0-9_]*)/g)].map(([, name]) => [name, 'pk_a-value-that-only-this-check-has-seen']));
  const { code, stderr } = await run([built('portcullis'), 'check', '--config', file], { env, cwd: dir, within: COMMAND_MS });
  if (code === 0) return [];
  assert.match(stderr, /^error: /);
  const said = stderr.replace(/^error: /, '').trimEnd().split('\n');
  return said.filter((line) => !line.startsWith('  hint: ')).map((line) => (line.startsWith(file) ? line.replace(/^\S+ /, '') : line));
}

/** What is wrong with a piece, which may be the middle of a policy. */
async function mistakesOfPiece(text) {
  const isInside = /^\[+policies\./m.exec(text)?.index < (/^\[\[policies\]\]/m.exec(text)?.index ?? Infinity);
  const said = await mistakes(`${ENOUGH}${isInside ? '[[policies]]\n' : ''}${text}`);
  // What is not TOML at all is told alone.
  if (!said.some((line) => line.includes('known_to_nobody'))) return said;
  return said.filter((line) => WRONG_ANYWHERE.test(line) && !line.includes('known_to_nobody'));
}

async function checkConfiguration(report, all) {
  const tables = all.flatMap(blocks).filter(({ language, mark }) => language === 'toml' && mark !== 'of');
  for (const table of tables.filter(isWhole)) {
    await report.check(`${place(table)}: a whole configuration is valid`, async () => (
      assert.deepEqual(await mistakes(withUpstreams(table)), [])
    ), { within: COMMAND_MS });
  }
  for (const table of tables.filter((table) => !isWhole(table))) {
    await report.check(`${place(table)}: a piece of configuration has keys that there are`, async () => (
      assert.deepEqual(await mistakesOfPiece(table.text), [])
    ));
  }
  await report.check('a key that is not there is found, in a piece as in a whole file', async () => {
    assert.match((await mistakes('[listen]\npublik = "127.0.0.1:1"\n'))[0], /^unknown key `publik`/);
    assert.match((await mistakesOfPiece('[policies.limits]\ntimes = "1s"\n'))[0], /^unknown key `times`/);
    assert.notDeepEqual(await mistakesOfPiece('[listen\n'), []);
    assert.deepEqual(await mistakes('[listen]\npublic = "127.0.0.1:1"\n'), []);
  });
}

function checkJson(report, all) {
  return report.check('JSON in the pages is JSON', () => {
    const wrong = all.flatMap(blocks).filter(({ language }) => language === 'json').filter(({ text }) => {
      try {
        JSON.parse(text);
        return false;
      } catch {
        return true;
      }
    });
    assert.deepEqual(wrong.map(place), []);
  });
}

/** In a diagram a semicolon ends a statement, whatever it was meant for. */
function checkDiagrams(report, all) {
  return report.check('no text of a diagram is cut off', () => {
    const diagrams = all.flatMap(blocks).filter(({ language }) => language === 'mermaid');
    assert.ok(diagrams.length > 0, 'there are no diagrams');
    assert.deepEqual(diagrams.filter(({ text }) => text.includes(';')).map(place), []);
  });
}

// ---- commands -------------------------------------------------------------------------------------------------

const helps = new Map();

/** What the program says of a command: the names of those below it, and its options. */
async function help(words) {
  const name = words.join(' ');
  if (!helps.has(name)) {
    const { code, stdout } = await run([built('portcullis'), ...words, '--help']);
    assert.equal(code, 0, `portcullis ${name} --help`);
    const [, list = ''] = /^Commands:\n((?: .*\n|\n(?= ))*)/m.exec(stdout) ?? [];
    const below = [...list.matchAll(/^ {2}([a-z][a-z-]*)/gm)].map(([, word]) => word);
    const options = [...stdout.matchAll(/(?<![\w-])(--?[a-z][a-z-]*)/g)].map(([, option]) => option);
    helps.set(name, { below, options });
  }
  return helps.get(name);
}

/** Commands of this program in a page, as words, each with where it stands. */
function mentioned(page) {
  const lines = blocks(page).filter(({ language }) => !NO_COMMANDS.includes(language))
    .flatMap(({ line, lines: texts }) => texts.map((text, at) => [line + at + 1, text]));
  const spans = read(page).split('\n').flatMap((line, at) => (
    [...line.matchAll(/`([^`]+)`/g)].map(([, span]) => [at + 1, span])
  ));
  // Where a command begins: not as an argument of another one.
  const started = /(?:^\s*(?:[$>] )?|[|;&(:=/]\s*|\b(?:sudo|exec) )portcullis ((?:[^|;&)#"'`]|"[^"]*"|'[^']*')*)/g;
  return [...lines, ...spans].flatMap(([line, text]) => [...text.matchAll(started)].map(([, words]) => ({
    page, line, words: words.replace(/ -- .*$/, '').replace(/ {2,}.*$/, '').trim().split(/[\s,]+/).filter((word) => word !== ''),
  })));
}

/** What of a command is not there; nothing where all is. */
async function unknown(words) {
  const known = [];
  let rest = words;
  while (rest.length > 0) {
    const { below } = await help(known);
    const [word, ...more] = rest;
    if (below.length === 0 || !/^[a-z][a-z-]*$/.test(word)) break;
    if (!below.includes(word)) return word;
    known.push(word);
    rest = more;
  }
  const { options } = await help(known);
  // A value in quotes may begin with anything.
  return rest.map((word) => word.split('=')[0]).find((word) => /^--?[a-z]/.test(word) && !options.includes(word));
}

function checkCommands(report, all) {
  return report.check('every command and option that the pages name is there', async () => {
    const found = all.flatMap(mentioned);
    const wrong = [];
    for (const { words, ...where } of found) {
      const missing = await unknown(words);
      if (missing !== undefined) wrong.push(`${place(where)} portcullis ${words.join(' ')}: no ${missing}`);
    }
    console.log(`${found.length} commands`);
    assert.ok(found.length > 100, 'hardly any commands were found');
    assert.deepEqual(wrong, []);
    assert.equal(await unknown(['policy', 'lits']), 'lits');
    assert.equal(await unknown(['key', 'create', 'ci', '--alow', 'x']), '--alow');
  }, { within: 120_000 });
}

// ---- tests ----------------------------------------------------------------------------------------------------

/** Every function of the Rust sources below a folder, with its file. */
function functions(folder) {
  return readdirSync(path.join(root, folder), { recursive: true }).filter((file) => file.endsWith('.rs')).flatMap((file) => (
    [...readFileSync(path.join(root, folder, file), 'utf8').matchAll(/\bfn ([a-z0-9_]+)/g)].map(([, name]) => ({ file: `/${file.replace(/\.rs$/, '')}/`, name }))
  ));
}

/** Pages that name tests: `it::` is the black-box crate, all else is beside the code; `…` stands for the end of a name. */
const WITH_TESTS = ['docs/threat-model.md', 'docs/testing.md'];

function checkTests(report) {
  return report.check('every test that a page names is there', () => {
    const known = { it: functions('tests/it'), beside: functions('host/src') };
    const named = WITH_TESTS.flatMap((page) => [...read(page).matchAll(/`((?:[a-z0-9_]+::)+[a-z0-9_]+)(…?)`/g)].map(([, name, more]) => ({ page, name, more })));
    const isMissing = ({ name, more }) => {
      const parts = name.split('::');
      const where = parts[0] === 'it' ? known.it : known.beside;
      const modules = parts.slice(parts[0] === 'it' ? 1 : 0);
      const last = modules.at(-1);
      const isBelow = (file, names) => new RegExp(`/${names.join('/(?:.*/)?')}/`).test(file);
      const isModule = more === '' && where.some(({ file }) => isBelow(file, modules));
      return !isModule && !where.some(({ file, name: found }) => (
        (more === '' ? found === last : found.startsWith(last)) && (modules.length === 1 || isBelow(file, modules.slice(0, -1)))
      ));
    };
    console.log(`${named.length} names of tests`);
    assert.ok(named.length > 60, 'hardly any names were found');
    assert.ok(isMissing({ name: 'it::oauth::consent::a1_an_address_', more: '…' }), 'it was found in another module');
    assert.ok(isMissing({ name: 'it::oauth::consents', more: '' }), 'a module was found that is not there');
    assert.deepEqual(named.filter(isMissing).map(({ page, name, more }) => `${page} ${name}${more}`), []);
  });
}

// ---- the contract ---------------------------------------------------------------------------------------------

/** What the contract of policies has of a kind: the names of interfaces, or what is in one record, variant, enum or flags. */
function contract() {
  const wit = readFileSync(path.join(root, 'guest-sdk/wit/policy.wit'), 'utf8').replaceAll(/^ *\/\/\/.*\n/gm, '');
  const inside = (kind, name) => {
    const [, body] = new RegExp(`  ${kind} ${name} \\{\\n([^}]*)\\}`).exec(wit);
    return [...body.matchAll(/^ {4}([a-z-]+)/gm)].map(([, member]) => member);
  };
  return [
    ...[...wit.matchAll(/^interface ([a-z-]+) \{/gm)].map(([, name]) => name).filter((name) => name !== 'types'),
    ...inside('record', 'context'), ...inside('record', 'caller').filter((name) => name !== 'tenant'), ...inside('enum', 'subject-kind'),
    ...inside('variant', 'verdict'), ...inside('variant', 'inspection'), ...inside('enum', 'visibility'),
    ...inside('flags', 'capability'), ...inside('enum', 'hook'),
  ];
}

function checkReference(report) {
  return report.check('the reference of policies names what the contract has', () => {
    const spans = new Set([...read('docs/policies/reference.md').matchAll(/`([^`]+)`/g)].flatMap(([, span]) => span.split('.')));
    const names = contract();
    assert.ok(names.length > 60, 'hardly anything was found in the contract');
    assert.deepEqual(names.filter((name) => !spans.has(name)), []);
  });
}

// ---- the suite ------------------------------------------------------------------------------------------------

await suite('docs', async (report) => {
  const all = pages();
  const writes = process.argv[2] === '--write';
  const chosen = process.argv.slice(writes ? 3 : 2);
  if (chosen.length === 0) {
    await checkLinks(report, all);
    await checkContents(report, all);
    await checkTests(report);
    await checkJson(report, all);
    await checkDiagrams(report, all);
    await checkReference(report);
    await checkCommands(report, all.filter((page) => page !== 'CHANGELOG.md'));
    await checkConfiguration(report, all);
    await report.check('every session of docs is run, or says why not', () => {
      const sessions = all.filter((page) => page.startsWith('docs/')).flatMap(blocks)
        .filter(({ language, text }) => language === 'console' && text.startsWith('$ '));
      assert.deepEqual(sessions.filter(({ mark }) => mark === undefined).map(place), []);
    });
  }
  const withSessions = all.filter((page) => blocks(page).some(({ mark }) => mark === 'session'));
  assert.ok(withSessions.includes('docs/getting-started.md'));
  for (const page of chosen.length > 0 ? chosen : withSessions) await checkSession(report, page, writes);
  await closeChromium();
});
