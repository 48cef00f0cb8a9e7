// The examples of policies in every language, as an author meets them: `policy new` writes each into a folder of its own,
// `policy build` builds it from source with its language's tools, and it gives the answers that all of them share.
//
// Modules that contain an engine take long to compile, so that they are only built by their own script and run once: with
// `--full`, they take the whole way too. The toolchains are those that tests/package.json and tests/requirements.txt pin.
//
// Usage: node examples.mjs [--full] [LANGUAGE…]

import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { built, root, run, suite, suiteFile } from './lib.mjs';

const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
const work = path.join(target, 'examples-policies');
const npm = path.join(root, 'tests/node_modules');

/** Where the tools of all languages are found. Rust's target directory outlives the folders, for it has the standard library. */
const env = {
  PATH: [path.join(target, 'python/bin'), path.dirname(process.execPath), process.env.PATH].join(':'),
  CARGO_TARGET_DIR: path.join(target, 'examples-rust'),
};

/** Longest build of a module: Rust's begins with the standard library. */
const BUILD_MS = 900_000;
/** Longest run of a module's cases: large modules are compiled first. */
const CASES_MS = 300_000;

/**
 * `bytes` is the largest size of the module, so that a toolchain that begins to drag something along is noticed; `large`
 * says that it has an engine in it.
 */
const languages = {
  assemblyscript: { lane: 'dynamic', bytes: 32_000 },
  c: { lane: 'typed', bytes: 64_000 },
  go: { lane: 'dynamic', bytes: 8_000_000 },
  javascript: { lane: 'typed', large: true, bytes: 20_000_000 },
  python: { lane: 'typed', large: true, bytes: 30_000_000 },
  rust: { lane: 'typed', bytes: 300_000 },
  typescript: { lane: 'typed', large: true, bytes: 20_000_000 },
  wat: { lane: 'typed', bytes: 16_000, name: 'deny-destructive', hooks: ['tool-call'] },
  zig: { lane: 'dynamic', bytes: 160_000 },
};

const text = (file) => readFileSync(file, 'utf8');
const json = (file) => JSON.parse(text(file));

/** Runs `portcullis policy` and returns how it ended and what it said. */
async function policy(...words) {
  const { code, stdout, stderr } = await run([built('portcullis'), 'policy', ...words], { env, within: BUILD_MS });
  return { code, stdout, said: `${stdout}\n${stderr}` };
}

/** Runs the script that builds the policy in a folder. */
async function script(folder) {
  const { code, stdout, stderr } = await run(['sh', path.join(folder, 'build')], { env, within: BUILD_MS });
  return { code, said: `${stdout}\n${stderr}` };
}

/** A folder with the language's template, and what its README has the author install. */
async function begin(language) {
  const folder = path.join(work, language);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const sdk = language === 'rust' ? ['--sdk', path.join(root, 'guest-sdk')] : [];
  const { code, said } = await policy('new', '--lang', language, ...sdk, folder);
  assert.equal(code, 0, said);
  if (existsSync(path.join(folder, 'package.json'))) symlinkSync(npm, path.join(folder, 'node_modules'));
  // The versions of dependencies that the workspace has.
  if (language === 'rust') copyFileSync(path.join(root, 'Cargo.lock'), path.join(folder, 'Cargo.lock'));
  return folder;
}

async function check(report, language) {
  const { lane, bytes, large = false, name = 'guard-paths', hooks = ['list-tools', 'tool-call'] } = languages[language];
  const module = path.join(work, language, 'policy.wasm');
  const isShort = large && !full;

  const isBuilt = await report.check(
    `${language}: is built from its template`,
    async () => {
      const folder = await begin(language);
      const { code, said } = isShort ? await script(folder) : await policy('build', folder);
      assert.equal(code, 0, said);
      const size = readFileSync(module).length;
      assert.ok(size <= bytes, `${size} bytes are more than ${bytes}`);
      console.log(`      ${size} bytes`);
    },
    { within: BUILD_MS },
  );
  if (!isBuilt) return;

  const shows = async () => {
    const { code, stdout, said } = await policy('inspect', '--json', module);
    assert.equal(code, 0, said);
    const shown = JSON.parse(stdout);
    assert.equal(shown.name, name);
    assert.deepEqual([...shown.hooks].sort(), hooks);
    assert.equal(shown.lane, lane);
    assert.equal(shown.large, large);
    assert.equal(shown.instances.mode, 'frozen', said);
  };
  if (!isShort) await report.check(`${language}: shows what it is`, shows, { within: CASES_MS });

  const cases = path.join(work, language, 'cases.json');
  const count = json(cases).length;
  await report.check(
    `${language}: gives the ${count} answers`,
    async () => {
      const { code, stdout, said } = await policy('test', module, '--cases', cases);
      assert.equal(code, 0, said);
      assert.match(stdout, new RegExp(`^${count} passed, 0 failed$`, 'm'));
    },
    { within: CASES_MS },
  );
}

/** Cases that are wrong must fail, or those above prove nothing. */
async function checkWrongCases(report, language) {
  const folder = path.join(work, language);
  await report.check(`${language}: wrong cases fail`, async () => {
    const [right] = json(path.join(folder, 'cases.json'));
    const wrong = [
      { ...right, expect: { deny: {} } },
      { name: 'refused', config: right.config, refused: ['/roots'] },
      right,
    ];
    const file = path.join(folder, 'wrong-cases.json');
    writeFileSync(file, JSON.stringify(wrong));
    const { code, stdout, said } = await policy('test', path.join(folder, 'policy.wasm'), '--cases', file);
    assert.notEqual(code, 0);
    assert.match(stdout, /^1 passed, 2 failed$/m, said);
  });
}

/** What authors are told to install, and to expect, is what is tried here. */
async function checkTexts(report, language) {
  const example = path.join(root, 'examples/policies', language);
  const pinned = json(suiteFile('../package.json'));
  const wheels = text(suiteFile('../requirements.txt')).match(/^\S+==\S+$/gm);
  await report.check(`${language}: its README tells what is tried here`, async () => {
    const readme = text(path.join(example, 'README.md'));
    const count = json(path.join(example, 'cases.json')).length;
    assert.ok(readme.includes(`\`${count} passed, 0 failed\``), `not ${count} cases`);
    for (const wheel of readme.match(/[\w-]+==[\d.]+/g) ?? []) assert.ok(wheels.includes(wheel), wheel);
    const manifest = path.join(example, 'package.json');
    if (!existsSync(manifest)) return;
    const { devDependencies, overrides = {} } = json(manifest);
    for (const [name, version] of Object.entries(devDependencies)) {
      assert.equal(version, pinned.devDependencies[name], name);
    }
    for (const [name, version] of Object.entries(overrides)) assert.deepEqual(version, pinned.overrides[name], name);
  });
}

const full = process.argv.includes('--full');
const chosen = process.argv.slice(2).filter((argument) => argument !== '--full');
await suite('examples', async (report) => {
  for (const language of chosen.length > 0 ? chosen : Object.keys(languages)) {
    await checkTexts(report, language);
    await check(report, language);
  }
  if (chosen.length === 0) await checkWrongCases(report, 'zig');
});
