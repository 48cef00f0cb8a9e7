// The container image and compose, run as they describe it, from a directory that has the image's layout.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import path from 'node:path';

import { layout, runWithin, startWithin, USER } from './deploy-layout.mjs';
import { adapted, ask, example, python, session, startPostgres, untilReady } from './deploy-parts.mjs';
import { freePort, root, run, scratch, suiteFile, until } from './lib.mjs';

const PROGRAM = 'portcullis';

export async function checkContainers(report, upstream) {
  const image = await checkImage(report);
  await checkRuns(report, image, upstream);
  await checkCompose(report, image, upstream);
}

/** What the Dockerfile says; the tests run what it says. */
async function checkImage(report) {
  const dockerfile = example('docker/Dockerfile');
  const lines = dockerfile.replaceAll(/\\\n\s*/g, '').split('\n').filter((line) => /^[A-Z]+ /.test(line));
  const stages = [];
  for (const line of lines) {
    if (line.startsWith('FROM ')) stages.push([]);
    stages.at(-1)?.push(line);
  }
  const last = stages.at(-1);
  const says = (word) => last.filter((line) => line.startsWith(`${word} `)).at(-1)?.slice(word.length + 1);
  const image = {
    env: Object.fromEntries([...says('ENV').matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name, value])),
    command: [...JSON.parse(says('ENTRYPOINT')), ...JSON.parse(says('CMD'))],
    health: JSON.parse(says('HEALTHCHECK').replace(/^.* CMD /, '')),
    stop: says('STOPSIGNAL'),
  };
  await report.check('docker: hadolint finds nothing in the Dockerfile', async () => {
    const { code, stdout, stderr } = await run([python('hadolint'), '--failure-threshold', 'style', path.join(root, 'examples/deployments/docker/Dockerfile')]);
    assert.equal(code, 0, stdout + stderr);
  });
  await report.check('docker: the image has a user and a volume, and nothing of the compiler', () => {
    assert.equal(says('USER'), `${USER}:${USER}`);
    assert.ok(stages.length === 2 && says('FROM').startsWith('debian:') && says('VOLUME') === '["/var/lib/portcullis"]', last.join('\n'));
    assert.match(says('LABEL'), /org\.opencontainers\.image\.source=.*licenses="Apache-2\.0".*version="\$\{VERSION\}"/);
  });
  await report.check('docker: it is built with the version of Rust that the workspace asks for', () => {
    const [, version] = /^rust-version = "(.*)"$/m.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8'));
    assert.match(stages[0][0], new RegExp(`^FROM rust:${version}-bookworm `));
  });
  await report.check('docker: the build is given every member of the workspace, and no results, data or secrets', () => {
    const ignored = example('docker/Dockerfile.dockerignore').split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    const kept = ignored.filter((line) => line.startsWith('!')).map((line) => line.slice(1));
    const [, members] = /^members = \[(.*?)^\]/ms.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8'));
    const needed = [...members.matchAll(/"([^"]+)"/g)].map(([, member]) => member.split('/')[0]);
    assert.equal(ignored[0], '*');
    assert.deepEqual([...new Set([...needed, 'Cargo.toml', 'Cargo.lock'])].filter((name) => !kept.includes(name)), []);
    for (const pattern of ['**/target', '**/*.key', '**/secrets', '**/.env']) assert.ok(ignored.includes(pattern), pattern);
    assert.ok(ignored.indexOf('**/target') > ignored.lastIndexOf('!examples'), 'the last pattern that fits counts');
  });
  return image;
}

/** The example's configuration with a port and an upstream of the test. */
function configOf(name, port, upstream) {
  return adapted(example(`${name}/portcullis.toml`), [
    ['public = "0.0.0.0:7400"', `public = "0.0.0.0:${port}"`],
    ['http://notes:9000/mcp', upstream],
  ]);
}

async function checkRuns(report, image, upstream) {
  const port = await freePort();
  const config = configOf('docker', port, upstream);
  const dir = await layout({
    files: { 'etc/portcullis/portcullis.toml': config }, secrets: { 'run/secrets/vault': randomBytes(32).toString('hex') },
  });
  const volume = scratch();
  const begin = (name) => startWithin(name, dir, volume, image.command, image.env);
  const inside = (...command) => runWithin(dir, volume, command, image.env);
  let gateway;
  await report.check('docker: the layout of the image starts with a read-only root', async () => {
    gateway = begin('deploy-docker');
    await untilReady('the gateway in the layout', gateway, port);
  }, { within: 90_000 });
  await report.check(`docker: it runs as user ${USER}, with no capability and no way to more`, () => {
    const status = readFileSync(`/proc/${gateway.pid}/status`, 'utf8');
    assert.match(status, /^CapEff:\s0{16}$/m);
    assert.match(status, /^CapPrm:\s0{16}$/m);
    assert.match(status, /^NoNewPrivs:\s1$/m);
    assert.match(readFileSync(`/proc/${gateway.pid}/uid_map`, 'utf8'), new RegExp(`^\\s*${USER}\\s`));
  });
  await report.check('docker: nothing but the volume and /tmp can be written', async () => {
    const outside = await inside(PROGRAM, 'vault', 'keygen', '/etc/portcullis/other.key');
    assert.notEqual(outside.code, 0, 'a file was made in /etc');
    assert.match(outside.stderr, /[Rr]ead-only file system/);
    const there = await inside(PROGRAM, 'vault', 'keygen', '/var/lib/portcullis/other.key');
    assert.equal(there.code, 0, there.stderr);
  });
  let key;
  await report.check('docker: the health check and the commands of operators work in it', async () => {
    const health = await inside(...image.health);
    assert.equal(health.code, 0, health.stderr);
    const made = await inside(PROGRAM, 'key', 'create', 'first', '--allow', '*/*');
    assert.equal(made.code, 0, made.stderr);
    [key] = /pk_[\w-]{43}/.exec(made.stdout);
  });
  await report.check('docker: a caller is served', () => serves(port, key));
  await report.check(`docker: ${image.stop} ends it well, and the volume has what lasts`, async () => {
    process.kill(gateway.pid, image.stop);
    await until('it ends', () => gateway.how !== undefined);
    assert.equal(gateway.how, 0);
    assert.notEqual((await inside(...image.health)).code, 0, 'the health check finds a gateway that is gone');
    gateway = begin('deploy-docker-again');
    await untilReady('the gateway in the layout', gateway, port);
    await serves(port, key);
    assert.equal(await gateway.stop(), 0);
  }, { within: 90_000 });
}

/** A caller with a key lists tools and calls one. */
async function serves(port, key) {
  const client = await session((options) => ask({ port, ...options, headers: { ...options.headers, authorization: `Bearer ${key}` } }));
  const { result } = await client.call('tools/call', { name: 'notes__test_simple_text', arguments: {} });
  assert.notEqual(result.isError, true, JSON.stringify(result));
}

async function checkCompose(report, image, upstream) {
  let said;
  await report.check('compose: the file is what the Compose Specification says, and names nothing that it does not have', async () => {
    const { code, stdout, stderr } = await run([python('python'), suiteFile('deploy-manifests.py'), 'compose', path.join(root, 'examples/deployments/compose/compose.yaml')]);
    assert.equal(code, 0, stderr);
    said = JSON.parse(stdout);
  });
  await report.check('compose: the gateway is confined, checked as the image is, and waits for a healthy database', () => {
    const { gateway, database } = said.services;
    assert.deepEqual([gateway.read_only, gateway.cap_drop, gateway.security_opt, gateway.user], [true, ['ALL'], ['no-new-privileges:true'], `${USER}:${USER}`]);
    assert.deepEqual(gateway.healthcheck.test, ['CMD', ...image.health]);
    assert.ok(parseInt(gateway.stop_grace_period) >= 80, 'the gateway has 20 s for requests in flight, and a minute for the rest');
    assert.equal(gateway.depends_on.database.condition, 'service_healthy');
    assert.ok(database.healthcheck.test.join(' ').includes('pg_isready'));
    const published = gateway.ports.map((port) => (typeof port === 'string' ? port : `${port.host_ip}:${port.published}`));
    assert.ok(published.every((port) => port.startsWith('127.0.0.1:')) && database.ports === undefined, published.join());
    assert.ok(Object.values(said.secrets).every(({ file }) => file.startsWith('./secrets/')));
  });

  const secret = {};
  await report.check('compose: the commands of its README make the secrets', async () => {
    const commands = example('compose/README.md').split('\n').filter((line) => / >?secrets(\/\w+)?$/.test(line) && /^(install|head) /.test(line));
    assert.equal(commands.length, 3, commands.join('\n'));
    const dir = scratch();
    const { code, stderr } = await run(['bash', '-euc', commands.join('\n')], { cwd: dir });
    assert.equal(code, 0, stderr);
    for (const name of ['vault', 'database']) secret[name] = readFileSync(path.join(dir, 'secrets', name), 'utf8');
    assert.match(secret.vault, /^[0-9a-f]{64}$/);
    assert.match(secret.database, /^[0-9a-f]{48}$/);
  });
  const postgres = await startPostgres('deploy-compose-postgres', { password: secret.database });
  const port = await freePort();
  const config = adapted(configOf('compose', port, upstream), [['@database/', `@database:${postgres.port}/`]]);
  const secrets = { 'run/secrets/vault': secret.vault, 'run/secrets/database': secret.database };
  const dir = await layout({ files: { 'etc/portcullis/portcullis.toml': config }, secrets, hosts: ['database'] });
  let key;
  for (const [life, sentence] of ['serves a caller with its store in the database', 'goes on with an empty volume, since all that lasts is in the database'].entries()) {
    await report.check(`compose: the gateway ${sentence}`, async () => {
      const volume = scratch();
      const gateway = startWithin(`deploy-compose-${life}`, dir, volume, image.command, image.env);
      await untilReady('the gateway of compose', gateway, port);
      if (life === 0) {
        const made = await runWithin(dir, volume, [PROGRAM, 'key', 'create', 'first', '--allow', '*/*'], image.env);
        assert.equal(made.code, 0, made.stderr);
        [key] = /pk_[\w-]{43}/.exec(made.stdout);
      }
      await serves(port, key);
      assert.equal(await gateway.stop(), 0);
      assert.ok(!readFileSync(gateway.logFile, 'utf8').includes(secret.database), 'the password is in the log');
    }, { within: 90_000 });
  }
  await postgres.server.stop();
}
