// The systemd unit of examples/deployments: what systemd-analyze says of it, and the gateway under the unit's rules for system
// calls and addresses, with a policy and a program of its own. No systemd runs here; the rules are read from the unit.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { adapted, ask, example, examples, KEY, session, untilReady, withKey } from './deploy-parts.mjs';
import { built, freePort, run, scratch, start, suiteFile, toml } from './lib.mjs';

const UNIT = path.join(examples, 'systemd/portcullis.service');
const UNITS = ['portcullis.service', 'portcullis.socket', 'portcullis-admin.socket'];
/** Largest exposure that the unit may have, in tenths: what is open to a service that has a network and compiles policies. */
const EXPOSURE = 12;
/** Longest stop of a gateway with its own settings: 20 s for requests in flight, and a minute for the rest. */
const STOP_SECONDS = 80;

export async function checkSystemd(report, upstream) {
  await checkUnits(report);
  await checkConfined(report, upstream);
}

/** Runs a program where /usr/local/bin has the gateway and nothing else, as the unit's paths want it. */
function installed(command) {
  const bin = scratch();
  symlinkSync(built('portcullis'), path.join(bin, 'portcullis'));
  return run(['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', 'mount --bind "$0" /usr/local/bin && exec "$@"', bin, ...command]);
}

async function checkUnits(report) {
  const units = UNITS.map((unit) => path.join(examples, 'systemd', unit));
  await report.check('systemd: systemd-analyze verifies the unit and its sockets without a word', async () => {
    const { code, stdout, stderr } = await installed(['systemd-analyze', 'verify', '--man=no', ...units]);
    assert.deepEqual([code, stdout + stderr], [0, '']);
  });
  await report.check('systemd: with the password of a database beside it, too', async () => {
    const dir = scratch();
    const unit = path.join(dir, 'portcullis.service');
    writeFileSync(unit, readFileSync(UNIT));
    mkdirSync(`${unit}.d`);
    writeFileSync(`${unit}.d/database.conf`, example('postgres-replicas/database.conf'));
    const { code, stdout, stderr } = await installed(['systemd-analyze', 'verify', '--man=no', unit]);
    assert.deepEqual([code, stdout + stderr], [0, '']);
  });
  await report.check(`systemd: its exposure is ${EXPOSURE / 10} at most`, async () => {
    const { code, stdout, stderr } = await run(['systemd-analyze', 'security', '--offline=true', `--threshold=${EXPOSURE}`, '--no-pager', UNIT]);
    assert.equal(code, 0, stdout.split('\n').filter((line) => !line.startsWith('✓')).join('\n') + stderr);
  });
  await report.check('systemd: the unit waits longer for the end than a gateway drains, and its data are where the configuration says', () => {
    const unit = readFileSync(UNIT, 'utf8');
    const [, stop] = /^TimeoutStopSec=(\d+)s$/m.exec(unit);
    assert.ok(Number(stop) >= STOP_SECONDS, stop);
    const [, directory] = /^StateDirectory=(\S+)$/m.exec(unit);
    assert.ok(example('systemd/portcullis.toml').includes(`data_dir = "/var/lib/${directory}"`));
    const [, credential] = /^LoadCredential=(\w+):/m.exec(unit);
    assert.ok(example('systemd/portcullis.toml').includes(`credential = "${credential}"`));
  });
}

/** The example's configuration with a policy and a program that the gateway starts. */
function configOf(port, upstream) {
  const config = adapted(example('systemd/portcullis.toml'), [
    ['public = "127.0.0.1:7400"', `public = "127.0.0.1:${port}"`],
    ['admin = "127.0.0.1:7401"', 'admin = "off"'],
    ['data_dir = "/var/lib/portcullis"', `data_dir = ${toml(scratch())}`],
    ['"http://127.0.0.1:9000/mcp"', toml(upstream)],
  ]);
  return `${withKey(config)}
[upstreams.child]
command = ${toml([built('fixture-upstream'), 'stdio'])}
memory_limit = "8GiB"

[[policies]]
name = "who-may-what"
module = "builtin:allow-tools"
config = { otherwise = "hide", rules = [{ tools = ["notes/test_simple_text", "child/*"], action = "allow" }] }
`;
}

async function checkConfined(report, upstream) {
  const port = await freePort();
  const file = path.join(scratch(), 'portcullis.toml');
  writeFileSync(file, configOf(port, upstream));
  const credentials = scratch();
  writeFileSync(path.join(credentials, 'vault'), randomBytes(32).toString('hex'), { mode: 0o400 });
  const env = { PORTCULLIS_TEST_KEY: KEY, CREDENTIALS_DIRECTORY: credentials };
  // Everything that the unit starts, with the paths of the test.
  const commandOf = (setting) => {
    const [, command] = new RegExp(`^${setting}=(.*)$`, 'm').exec(readFileSync(UNIT, 'utf8'));
    return adapted(command, [['/usr/local/bin/portcullis', built('portcullis')], ['/etc/portcullis/portcullis.toml', file]]).split(' ');
  };
  const confined = (command, ...options) => ['python3', suiteFile('deploy-confined.py'), UNIT, ...options, ...command];

  await report.check('systemd: the rules refuse what they say, and let be what they do not', async () => {
    const tries = `
import os, socket
for attempt in (lambda: socket.socket(socket.AF_INET), lambda: socket.socket(socket.AF_NETLINK), lambda: os.chroot('/'), lambda: socket.sethostname('x')):
    try:
        attempt()
        print('done')
    except PermissionError:
        print('refused')`;
    const { stdout, stderr } = await run(confined(['python3', '-c', tries]));
    assert.deepEqual(stdout.trim().split('\n'), ['done', 'refused', 'refused', 'refused'], stderr);
  });
  await report.check('systemd: ExecStartPre accepts the configuration under the unit\'s rules', async () => {
    const { code, stdout, stderr } = await run(confined(commandOf('ExecStartPre')), { env });
    assert.equal(code, 0, stdout + stderr);
  });
  await report.check('systemd: under the unit\'s rules a policy decides, and a program of the gateway\'s own answers', async () => {
    const gateway = start('deploy-systemd', confined(commandOf('ExecStart')), { env });
    await untilReady('the confined gateway', gateway, port);
    assert.match(readFileSync(`/proc/${gateway.pid}/status`, 'utf8'), /^Seccomp:\s2$/m);
    const client = await session((options) => ask({ port, ...options }));
    const { result: { tools } } = await client.call('tools/list');
    assert.deepEqual(tools.map(({ name }) => name).filter((name) => name.startsWith('notes__')), ['notes__test_simple_text']);
    for (const name of ['notes__test_simple_text', 'child__test_simple_text']) {
      const { result } = await client.call('tools/call', { name, arguments: {} });
      assert.notEqual(result.isError, true, JSON.stringify(result));
    }
    // As README.md has it: commands find the configuration and its credentials by two variables.
    const listed = await run([built('portcullis'), 'key', 'list'], { env: { ...env, PORTCULLIS_CONFIG: file } });
    assert.equal(listed.code, 0, listed.stderr);
    assert.equal(await gateway.stop(), 0);
  }, { within: 90_000 });
  await report.check('systemd: with MemoryDenyWriteExecute no policy could be compiled, which is why the unit does without', async () => {
    assert.ok(!/^MemoryDenyWriteExecute=/m.test(readFileSync(UNIT, 'utf8')));
    const { code, stderr } = await run(confined(commandOf('ExecStart'), '--no-new-executable-memory'), { env, within: 60_000 });
    assert.equal(code, 1, stderr);
    assert.match(stderr, /policy who-may-what: .*make memory executable/);
  }, { within: 70_000 });
  await checkSockets(report, { file, port, env });
}

/** The gateway on a socket that it did not open, called as the socket unit calls it. */
async function checkSockets(report, { env, port, file }) {
  await report.check('systemd: with a socket of systemd the gateway begins with the first caller', async () => {
    const [, name] = /^FileDescriptorName=(\w+)$/m.exec(example('systemd/portcullis.socket'));
    const variables = Object.entries(env).flatMap(([key, value]) => ['--setenv', `${key}=${value}`]);
    const gateway = start('deploy-sockets', [
      'systemd-socket-activate', `--listen=127.0.0.1:${port}`, `--fdname=${name}`, ...variables,
      built('portcullis'), 'serve', '--config', file,
    ], { env });
    await untilReady('the gateway behind a socket', gateway, port);
    const client = await session((options) => ask({ port, ...options }));
    await client.call('tools/list');
    assert.equal(await gateway.stop(), 0);
  }, { within: 90_000 });
}
