// The release that needs no library of the machine, built as the recipe `static` of the justfile says. The build takes long: it
// is for long runs only.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { freePort, root, run, scratch, start, toml, until } from './lib.mjs';

/** Longest time for the build, on two cores that have not built a release. */
const BUILD_MS = 2_700_000;
const TARGET = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');

export async function checkStatic(report) {
  const isBuilt = await report.check('static: the recipe of the justfile builds it', async () => {
    const [, build] = /^static:\n {4}(.+)$/m.exec(readFileSync(path.join(root, 'justfile'), 'utf8'));
    assert.match(build, /^RUSTFLAGS="-C target-feature=\+crt-static" cargo build --release --locked /);
    const { code, stderr } = await run(['sh', '-c', build], { env: process.env, cwd: root, within: BUILD_MS });
    assert.equal(code, 0, stderr);
  }, { within: BUILD_MS });
  if (isBuilt) await judge(report, path.join(TARGET, 'x86_64-unknown-linux-gnu/release/portcullis'));
}

/** Holds a program against what the recipe promises of it. */
export async function judge(report, program) {
  await report.check('static: the program names no library and no loader', async () => {
    const { code, stdout, stderr } = await run(['readelf', '--wide', '--file-header', '--program-headers', '--dynamic', program]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^ {2}LOAD /m);
    assert.deepEqual(stdout.split('\n').filter((line) => /\(NEEDED\)|^ {2}INTERP /.test(line)), []);
  });
  await report.check('static: it serves, and stops when it is told to', async () => {
    const dir = scratch();
    const [file, address] = [path.join(dir, 'portcullis.toml'), `127.0.0.1:${await freePort()}`];
    writeFileSync(file, `data_dir = "data"\n[listen]\npublic = ${toml(address)}\nadmin = "off"\n[store]\nurl = "memory:"\n`);
    const gateway = start('deploy-static', [program, 'serve', '--config', file]);
    await until('the static gateway is healthy', async () => {
      gateway.assertRunning();
      return (await fetch(`http://${address}/healthz`)).status === 200;
    });
    assert.equal(await gateway.stop(), 0);
  }, { within: 60_000 });
}
