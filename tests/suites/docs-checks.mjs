// What is true of all documents without running them: links, configurations, commands, tests and the contract that they name.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { blocks, place, prose, read } from './docs-pages.mjs';
import { COMMAND_MS } from './docs-sessions.mjs';
import { built, root, run, scratch } from './lib.mjs';

/** Languages of blocks in which no command stands. */
const NO_COMMANDS = ['toml', 'json', 'jsonc', 'rust', 'mermaid', 'sql', 'wit', 'yaml', 'js', 'python'];

// ---- links -------------------------------------------------------------------------------------------------------

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

export function checkLinks(report, all) {
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

export function checkContents(report, all) {
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

// ---- configuration -----------------------------------------------------------------------------------------------

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

export async function checkConfiguration(report, all) {
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

export function checkJson(report, all) {
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
export function checkDiagrams(report, all) {
  return report.check('no text of a diagram is cut off', () => {
    const diagrams = all.flatMap(blocks).filter(({ language }) => language === 'mermaid');
    assert.ok(diagrams.length > 0, 'there are no diagrams');
    assert.deepEqual(diagrams.filter(({ text }) => text.includes(';')).map(place), []);
  });
}

// ---- commands ----------------------------------------------------------------------------------------------------

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
  const started = /(?:^\s*(?:[$>] )?|[|;&(:]\s*|(?<!deployment)\/|\bsudo |\bexec (?:portcullis )?| -- )portcullis ((?:[^|;&)#"'`]|"[^"]*"|'[^']*')*)/g;
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

export function checkCommands(report, all) {
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

// ---- tests -------------------------------------------------------------------------------------------------------

/** The Rust sources below a folder: `file` and `text`. */
function sources(folder) {
  return readdirSync(path.join(root, folder), { recursive: true }).filter((file) => file.endsWith('.rs'))
    .map((file) => ({ file, text: readFileSync(path.join(root, folder, file), 'utf8') }));
}

/** Every function of the Rust sources below a folder, with its file. */
function functions(folder) {
  return sources(folder).flatMap(({ file, text }) => (
    [...text.matchAll(/\bfn ([a-z0-9_]+)/g)].map(([, name]) => ({ file: `/${file.replace(/\.rs$/, '')}/`, name }))
  ));
}

/** Pages that name tests: `it::` is the black-box crate, all else is beside the code; `…` stands for the end of a name. */
const WITH_TESTS = ['docs/threat-model.md', 'docs/testing.md'];

export function checkTests(report) {
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

/** The ids of threats that a text cites: in comments after "row" or "rows", and as beginnings of the names of tests. */
function cited(text) {
  const oneLine = text.replaceAll(/\n *\/\/[/!]? ?/g, ' ');
  const rows = [...oneLine.matchAll(/\brows? ((?:[A-Z]\d+(?:, (?=[A-Z]\d)| and (?=[A-Z]\d)| to (?=[A-Z]\d))?)+)/g)].flatMap(([, ids]) => ids.match(/[A-Z]\d+/g));
  const tests = [...text.matchAll(/\bfn ([ahmtu]\d+)_/g)].map(([, id]) => id.toUpperCase());
  return [...rows, ...tests];
}

export function checkCitations(report) {
  return report.check('what the code cites is in the repository', () => {
    const all = ['host/src', 'tests/it', 'tests/src'].flatMap((folder) => sources(folder).map(({ file, text }) => ({ file: `${folder}/${file}`, text })));
    const threats = new Set([...read('docs/threat-model.md').matchAll(/^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \|/gm)].flatMap(([, ids]) => ids.split(', ')));
    const found = all.flatMap(({ file, text }) => cited(text).map((id) => ({ file, id })));
    console.log(`${found.length} citations of ${threats.size} threats`);
    assert.ok(threats.size > 50 && found.length > 200, 'hardly anything was found');
    assert.deepEqual(cited('//! One (`docs/threat-model.md` rows A1,\n//! T2 and U3), and row H4.\nfn a5_holds() {}'), ['A1', 'T2', 'U3', 'H4', 'A5']);
    assert.deepEqual(found.filter(({ id }) => !threats.has(id)), []);
    const pages = all.flatMap(({ file, text }) => [...text.matchAll(/\bdocs\/[\w./-]+\.(?:md|json)\b/g)].map(([page]) => ({ file, page })));
    assert.deepEqual(pages.filter(({ page }) => !existsSync(path.join(root, page))), []);
  });
}

// ---- the contract ------------------------------------------------------------------------------------------------

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

export function checkReference(report) {
  return report.check('the reference of policies names what the contract has', () => {
    const spans = new Set([...read('docs/policies/reference.md').matchAll(/`([^`]+)`/g)].flatMap(([, span]) => span.split('.')));
    const names = contract();
    assert.ok(names.length > 60, 'hardly anything was found in the contract');
    assert.deepEqual(names.filter((name) => !spans.has(name)), []);
  });
}
