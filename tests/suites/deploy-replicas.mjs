// Three gateways on one PostgreSQL behind HAProxy, with the files of examples/deployments/postgres-replicas: a session goes on
// wherever its requests arrive, and a gateway that is told to stop while many call costs nobody a call.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { adapted, ask, example, KEY, messages, session, startPostgres, untilReady, withKey } from './deploy-parts.mjs';
import { operator } from './gatekeeper.mjs';
import { built, freePort, run, scratch, start, toml, until } from './lib.mjs';

const PASSWORD = 'canary-of-the-shared-database';
const NAMES = ['one', 'two', 'three'];
/** Callers at once while a gateway stops. */
const CALLERS = 64;
/** How long they go on after it has stopped (ms). */
const AFTERWARDS_MS = 1_500;

export async function checkReplicas(report, upstream, pem) {
  const postgres = await startPostgres('deploy-replicas-postgres', { password: PASSWORD });
  const secrets = scratch();
  writeFileSync(path.join(secrets, 'vault'), randomBytes(32).toString('hex'), { mode: 0o400 });
  writeFileSync(path.join(secrets, 'database'), PASSWORD, { mode: 0o400 });
  const gateways = [];
  for (const name of NAMES) gateways.push(await startReplica(name, { postgres, secrets, upstream }));
  await Promise.all(gateways.map(({ name, running, port }) => untilReady(`gateway ${name}`, running, port)));
  const balancer = await startBalancer(gateways, pem);
  const agent = new https.Agent({ keepAlive: true, maxSockets: CALLERS });
  const send = (options) => ask({ port: balancer.port, ca: pem.ca, agent, ...options });
  await until('HAProxy knows all gateways', async () => {
    balancer.running.assertRunning();
    const found = new Set();
    for (let asked = 0; asked < 6; asked += 1) found.add((await ask({ port: balancer.port, ca: pem.ca, path: '/readyz' })).headers['x-gateway']);
    return found.size === NAMES.length;
  });

  await report.check('postgres-replicas: the gateways know each other, and that they have the same configuration', async () => {
    await until('each of them sees two others', async () => {
      const { body } = await gateways[0].operate('GET', '/api/v1/status');
      return body.replica.others.filter(({ same_configuration: isSame }) => isSame).length === NAMES.length - 1;
    });
  });
  await report.check('postgres-replicas: a session that begins on one gateway goes on with the others, streams and all', async () => {
    const client = await session(send);
    const served = new Map([[client.begun.headers['x-gateway'], 0]]);
    for (let call = 0; call < 9; call += 1) {
      const params = { name: 'notes__test_tool_with_progress', arguments: {}, _meta: { progressToken: call } };
      const answer = await client.call('tools/call', params);
      assert.equal(answer.messages.filter(({ method }) => method === 'notifications/progress').length, 3, answer.body);
      const by = answer.headers['x-gateway'];
      served.set(by, (served.get(by) ?? 0) + 1);
    }
    assert.deepEqual([...served.keys()].sort(), [...NAMES].sort());
  });
  await report.check('postgres-replicas: a key that one gateway has made and disabled is that on all of them', async () => {
    const tell = (...command) => run([built('portcullis'), 'key', ...command, '--config', gateways[1].file], { env: gateways[1].env });
    const made = await tell('create', 'shared', '--allow', '*/*');
    assert.equal(made.code, 0, made.stderr);
    const [key] = /pk_[\w-]{43}/.exec(made.stdout);
    const everywhere = async (status) => {
      const answers = await Promise.all(gateways.map(({ port }) => list(({ ...options }) => ask({ port, ...options }), key)));
      return answers.every((answer) => answer.status === status);
    };
    await until('all of them take it', () => everywhere(200), 5_000);
    assert.equal((await tell('disable', 'shared')).code, 0);
    await until('all of them refuse it', () => everywhere(401), 5_000);
  });
  await checkStop(report, { gateways, balancer, send });
  await report.check('postgres-replicas: they and HAProxy ended when they were told to', async () => {
    const hows = await Promise.all([...gateways.slice(1).map(({ running }) => running.stop())]);
    assert.deepEqual(hows, [0, 0]);
    await balancer.running.stop();
    agent.destroy();
    await postgres.server.stop();
  });
}

/** A gateway of the example, with its own addresses on loopback. */
async function startReplica(name, { postgres, secrets, upstream }) {
  const [port, replica, data] = [await freePort(), await freePort(), scratch()];
  const config = adapted(example('postgres-replicas/portcullis.toml'), [
    ['public = "10.0.0.11:7400"', `public = "127.0.0.1:${port}"`],
    ['admin = "127.0.0.1:7401"', 'admin = "off"'],
    ['listen = "10.0.0.11:7402"', `listen = "127.0.0.1:${replica}"`],
    ['data_dir = "/var/lib/portcullis"', `data_dir = ${toml(data)}`],
    ['postgres.example.internal/portcullis?sslmode=verify-full&sslrootcert=/etc/portcullis/database-ca.pem', `127.0.0.1:${postgres.port}/portcullis?sslmode=disable`],
    ['/run/credentials/portcullis.service', secrets],
    ['"http://notes.example.internal:9000/mcp"', toml(upstream)],
  ]);
  const file = path.join(scratch(), 'portcullis.toml');
  writeFileSync(file, withKey(config));
  const env = { PORTCULLIS_TEST_KEY: KEY, CREDENTIALS_DIRECTORY: secrets };
  const running = start(`deploy-replica-${name}`, [built('portcullis'), 'serve', '--config', file], { env });
  return { name, port, file, env, running, operate: operator(path.join(data, 'admin.sock')) };
}

async function startBalancer(gateways, pem) {
  const port = await freePort();
  const dir = scratch();
  const file = path.join(dir, 'haproxy.cfg');
  const places = gateways.map(({ port: at, name }, index) => [`server ${name} 10.0.0.1${index + 1}:7400`, `server ${name} 127.0.0.1:${at}`]);
  writeFileSync(file, adapted(example('postgres-replicas/haproxy.cfg'), [
    ...places, ['bind :443 ssl', `bind 127.0.0.1:${port} ssl`], ['/etc/portcullis/tls', pem.dir], ['/run/haproxy/admin.sock', `${dir}/admin.sock`],
  ]));
  const tested = await run(['haproxy', '-c', '-f', file]);
  assert.equal(tested.code, 0, tested.stderr);
  return { port, running: start('deploy-replicas-haproxy', ['haproxy', '-db', '-f', file]) };
}

/** A list of tools in a request of 2026-07-28, which has no session. */
const list = (send, key = KEY) => send(stateless('tools/list', {}, key));

/** A request of the revision without sessions, and its headers. */
function stateless(method, params, key = KEY) {
  const body = {
    jsonrpc: '2.0', id: 'stateless', method,
    params: {
      ...params,
      _meta: {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28', 'io.modelcontextprotocol/clientCapabilities': {},
        'io.modelcontextprotocol/clientInfo': { name: 'deploy', version: '1' },
      },
    },
  };
  return {
    method: 'POST', path: '/mcp', body: JSON.stringify(body),
    headers: {
      'content-type': 'application/json', accept: 'application/json, text/event-stream', authorization: `Bearer ${key}`,
      'mcp-protocol-version': '2026-07-28', 'mcp-method': method, ...(params.name && { 'mcp-name': params.name }),
    },
  };
}

async function checkStop(report, { gateways, balancer, send }) {
  await report.check(`postgres-replicas: SIGTERM to a gateway under ${CALLERS} callers costs no call`, async () => {
    let goesOn = true;
    const counts = { done: 0, by: new Map() };
    const failures = [];
    const caller = async (number) => {
      // Half of them wait for something in the middle of an answer, when the gateway stops.
      const name = number % 2 === 0 ? 'notes__test_simple_text' : 'notes__test_tool_with_progress';
      while (goesOn) {
        try {
          const answer = await send(stateless('tools/call', { name, arguments: {} }));
          const said = answer.status === 200 ? messages(answer) : [];
          if (!answer.complete || !said.some(({ result }) => result && result.isError !== true)) {
            failures.push(`${answer.headers['x-gateway']}: ${answer.status} ${answer.body.slice(0, 200)}`);
          }
          counts.done += 1;
          counts.by.set(answer.headers['x-gateway'], (counts.by.get(answer.headers['x-gateway']) ?? 0) + 1);
        } catch (error) {
          failures.push(String(error));
        }
      }
    };
    const callers = Array.from({ length: CALLERS }, (_, number) => caller(number));
    await until('all gateways have answered calls', () => counts.by.size === NAMES.length && counts.done > 4 * CALLERS);
    const before = counts.done;
    const [stopped] = gateways;
    const how = await stopped.running.stop();
    const during = counts.done - before;
    await wait(AFTERWARDS_MS);
    goesOn = false;
    await Promise.all(callers);
    console.log(`      ${counts.done} calls, ${during} of them while gateway ${stopped.name} stopped, by ${[...counts.by].map(([by, count]) => `${by} ${count}`).join(', ')}`);
    assert.equal(how, 0);
    assert.deepEqual(failures.slice(0, 5), [], `${failures.length} of ${counts.done} failed`);
    balancer.running.assertRunning();
  }, { within: 60_000 });
}
