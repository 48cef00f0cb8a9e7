// The terminal session of README.md, true to the letter: quickstart in an empty directory, then each command of the second
// session with its output. Keys, times and the way to the inspector are the only things that may differ.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { built, childrenOf, installed, isAlive, root, run, scratch, start, suite, until } from './lib.mjs';

const URL_TEXT = 'http://127.0.0.1:7400';

/** The console sessions of README.md: commands, each with the output that is to follow. */
function sessions() {
  const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
  return [...readme.matchAll(/^```console\n(.*?)^```$/gms)].map(([, text]) =>
    text
      .split(/^\$ /m)
      .slice(1)
      .map((part) => {
        const [command, ...output] = part.split('\n');
        return { command, output: output.join('\n').trimEnd() };
      }),
  );
}

/** What may differ from run to run, made equal. */
function plain(text) {
  return text
    .replaceAll(/pk_[A-Za-z0-9_-]{43}/g, 'pk_…')
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replaceAll(/\b[0-9a-f]{24}\b/g, 'ID')
    .trimEnd();
}

/** A directory in which the programs of the sessions are found where the README has them. */
function workplace() {
  const dir = scratch();
  mkdirSync(path.join(dir, 'target/release'), { recursive: true });
  symlinkSync(built('portcullis'), path.join(dir, 'target/release/portcullis'));
  mkdirSync(path.join(dir, 'bin'));
  const inspector = installed('@modelcontextprotocol/inspector/package.json');
  const { bin } = JSON.parse(readFileSync(inspector, 'utf8'));
  const program = path.join(path.dirname(inspector), bin['mcp-inspector']);
  const npx = `#!/bin/sh\n[ "$1" = @modelcontextprotocol/inspector ] || exit 127\nshift\nexec "${process.execPath}" "${program}" "$@"\n`;
  writeFileSync(path.join(dir, 'bin/npx'), npx, { mode: 0o755 });
  return dir;
}

await suite('quickstart', async (report) => {
  const [[quickstart], commands] = sessions();
  const dir = workplace();
  const running = start('quickstart', [built('portcullis'), ...quickstart.command.split(' -- ')[1].split(' ')], { cwd: dir });

  await until('quickstart says how to connect', () => {
    running.assertRunning();
    return readFileSync(running.logFile, 'utf8').includes('Ctrl-C');
    // The first start compiles all policies.
  }, 240_000);
  const family = [running.pid, ...childrenOf(running.pid)];

  await report.check('quickstart says what README.md says', () => {
    assert.equal(plain(readFileSync(running.logFile, 'utf8')), plain(quickstart.output));
  });
  await report.check('it runs the two example servers as processes of their own', () => assert.equal(family.length, 3));
  await report.check('it answers at the URL that it names', async () => {
    const response = await fetch(`${URL_TEXT}/readyz`);
    assert.equal(response.status, 200);
  });

  const script = [
    'exec 2>&1',
    `cd "${dir}"`,
    `export PATH="${dir}/bin:$PATH"`,
    ...commands.flatMap(({ command }, at) => [`echo "@@ ${at}"`, command]),
  ].join('\n');
  const { stdout } = await run(['bash', '-c', script], { within: 120_000 });
  const outputs = stdout.split(/^@@ \d+\n/m).slice(1);
  for (const [at, { command, output }] of commands.entries()) {
    await report.check(`$ ${command.slice(0, 90)}`, () => assert.equal(plain(outputs[at] ?? ''), plain(output)));
  }

  await report.check('Ctrl-C ends it and leaves no process behind', async () => {
    process.kill(running.pid, 'SIGINT');
    await until('all processes have ended', () => family.every((pid) => !isAlive(pid)));
    assert.equal(await running.stop(), 0);
  });
});
