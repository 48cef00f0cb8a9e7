// What the parts of the suite `deploy` share: the example files with the addresses of a test in them, an MCP client that sees
// the wire, a PostgreSQL server, certificates.

import assert from 'node:assert/strict';
import { chownSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';

import { built, freePort, root, run, scratch, start, until } from './lib.mjs';

/** The host of the examples' public URL. */
export const HOST = 'mcp.example.com';
export const KEY = 'pk_deployments-under-test-0000000000000000000000';
export const examples = path.join(root, 'examples/deployments');
export const example = (name) => readFileSync(path.join(examples, name), 'utf8');
/** A program of target/python. */
export const python = (name) => path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'python/bin', name);

/** A text with each of these replaced, every one of which must be there. A change of the example that a test has not seen fails it. */
export function adapted(text, replacements) {
  for (const [from, to] of replacements) {
    assert.ok(text.includes(from), `the example has no ${JSON.stringify(from)}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

/** A key for the tests, at the end of a configuration. */
export const withKey = (config) => `${config}
[keys.test]
secret = "env:PORTCULLIS_TEST_KEY"
allow = [{ upstream = "*", tools = ["*"] }]
`;

/** A certificate for the public host, signed by itself: the paths of its PEM files, and the certificate. */
export async function certificate() {
  const dir = scratch();
  const [chain, key, both] = ['fullchain.pem', 'privkey.pem', `${HOST}.pem`].map((name) => path.join(dir, name));
  const made = await run([
    'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', `/CN=${HOST}`, '-addext', `subjectAltName=DNS:${HOST}`, '-keyout', key, '-out', chain,
  ]);
  assert.equal(made.code, 0, made.stderr);
  const ca = readFileSync(chain, 'utf8');
  writeFileSync(both, ca + readFileSync(key, 'utf8'), { mode: 0o600 });
  return { dir, ca, both };
}

/** The fixture upstream on a free port. */
export async function startFixture(name) {
  const port = await freePort();
  const fixture = start(name, [built('fixture-upstream'), 'http', String(port)]);
  await until('the fixture upstream listens', async () => {
    fixture.assertRunning();
    return await fetch(`http://127.0.0.1:${port}/mcp`);
  });
  return `http://127.0.0.1:${port}/mcp`;
}

/** Waits until a gateway on loopback says that it is ready for callers of the public host. */
export async function untilReady(name, gateway, port) {
  await until(`${name} is ready`, async () => {
    gateway.assertRunning();
    const { status } = await plainly({ port, path: '/readyz' });
    return status === 200;
    // A first start compiles policies.
  }, 60_000);
}

/** A GET without TLS that names the public host. */
export function plainly({ port, path: target, host = HOST }) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.end(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));
    let text = '';
    socket.setEncoding('latin1').on('data', (part) => (text += part)).on('error', reject);
    socket.on('close', () => resolve({ status: Number(text.slice(9, 12)), text }));
  });
}

/**
 * A request to the public host at a port of loopback, and its answer with the moment at which each part came, in milliseconds. With
 * TLS if there is a certificate `ca` that the server has to prove.
 */
export function ask({ port, ca, method = 'GET', path: target, headers = {}, body, from = '127.0.0.1', within = 20_000, agent }) {
  return new Promise((resolve, reject) => {
    let answered = false;
    const request = (ca === undefined ? http : https).request({
      host: '127.0.0.1', port, ...(ca !== undefined && { ca, servername: HOST }), method, path: target, localAddress: from, agent: agent ?? false,
      headers: { host: HOST, ...headers }, timeout: within,
    }, (answer) => {
      answered = true;
      const parts = [];
      answer.on('data', (part) => parts.push({ at: performance.now(), text: part.toString() }));
      const done = () => resolve({
        status: answer.statusCode, headers: answer.headers, parts, body: parts.map(({ text }) => text).join(''),
        complete: answer.complete,
      });
      answer.on('end', done).on('error', done);
    });
    request.on('timeout', () => request.destroy(new Error(`silence for ${within} ms`)));
    // Who refuses a long body need not read all of it.
    request.on('error', (error) => answered || reject(error));
    request.end(body);
  });
}

/** The JSON-RPC messages of an answer, as JSON or as a stream of events. */
export function messages({ headers, body }) {
  if (!/^text\/event-stream/.test(headers['content-type'])) return body === '' ? [] : [JSON.parse(body)];
  const data = body.split(/\n\n|\r\n\r\n/).map((event) => event.split(/\r?\n/).filter((line) => line.startsWith('data:')));
  return data.map((lines) => lines.map((line) => line.slice(5).trim()).join('\n')).filter((text) => text !== '').map((text) => JSON.parse(text));
}

/** A client of MCP 2025-11-25 that has a session. `ask` is how its requests are sent. */
export async function session(send) {
  let id = 0;
  const headers = {
    'content-type': 'application/json', accept: 'application/json, text/event-stream', authorization: `Bearer ${KEY}`,
  };
  const post = (message) => send({ method: 'POST', path: '/mcp', headers, body: JSON.stringify({ jsonrpc: '2.0', ...message }) });
  const call = async (method, params = {}) => {
    id += 1;
    const answer = await post({ id, method, params });
    assert.equal(answer.status, 200, answer.body);
    const said = messages(answer);
    const reply = said.find((message) => message.id === id);
    assert.ok(reply?.result, `no result of ${method}: ${answer.body}`);
    return { ...answer, messages: said, result: reply.result };
  };
  const begun = await call('initialize', {
    protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'deploy', version: '1' },
  });
  assert.equal(begun.result.protocolVersion, '2025-11-25');
  headers['mcp-session-id'] = begun.headers['mcp-session-id'];
  headers['mcp-protocol-version'] = '2025-11-25';
  assert.ok(headers['mcp-session-id'], 'a session has an id');
  assert.equal((await post({ method: 'notifications/initialized' })).status, 202);
  return { call, headers, begun };
}

/** The status of a list of tools over HTTP/2, and what TLS has agreed on. */
export function listOverHttp2({ port, ca, headers }) {
  return new Promise((resolve, reject) => {
    const connection = http2.connect(`https://${HOST}`, {
      ca, servername: HOST, host: '127.0.0.1', port, lookup: (_, options, done) =>
        (options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)),
    });
    connection.on('error', reject);
    const stream = connection.request({
      ...headers, ':method': 'POST', ':path': '/mcp', ':authority': HOST, ':scheme': 'https',
    });
    let status;
    let body = '';
    stream.on('response', (answer) => (status = answer[':status']));
    stream.setEncoding('utf8').on('data', (part) => (body += part)).on('error', reject);
    stream.on('end', () => {
      const { alpnProtocol } = connection;
      connection.close();
      resolve({ status, body, alpnProtocol });
    });
    stream.end(JSON.stringify({ jsonrpc: '2.0', id: 'h2', method: 'tools/list', params: {} }));
  });
}

// ---- PostgreSQL ---------------------------------------------------------------------------------------------------

/** A PostgreSQL server on a free loopback port, as an unprivileged user. It ends with the suite. */
export async function startPostgres(name, { password, user = 'portcullis' }) {
  const [version] = readdirSync('/usr/lib/postgresql').sort((a, b) => b - a);
  const program = (file) => path.join('/usr/lib/postgresql', version, 'bin', file);
  const dir = scratch();
  const secret = path.join(dir, 'password');
  writeFileSync(secret, password, { mode: 0o600 });
  const data = path.join(dir, 'data');
  mkdirSync(data, { mode: 0o700 });
  let as = [];
  if (process.getuid() === 0) {
    const found = await run(['sh', '-c', 'id -u nobody; id -g nobody']);
    const [uid, gid] = found.stdout.trim().split('\n').map(Number);
    for (const file of [dir, secret, data]) chownSync(file, uid, gid);
    as = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'];
  }
  const initialised = await run([
    ...as, program('initdb'), '--pgdata', data, '--pwfile', secret, '--username', user, '--auth=scram-sha-256', '--encoding=UTF8',
    '--locale=C', '--no-sync',
  ], { within: 60_000, cwd: dir });
  assert.equal(initialised.code, 0, initialised.stderr);
  const port = await freePort();
  const settings = [
    `listen_addresses=127.0.0.1`, 'unix_socket_directories=', 'fsync=off', 'full_page_writes=off', 'shared_buffers=16MB', 'max_connections=100',
  ];
  const server = start(name, [...as, program('postgres'), '-D', data, '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])], { cwd: dir });
  const ready = () => run([program('pg_isready'), '-h', '127.0.0.1', '-p', String(port)]);
  await until('PostgreSQL takes connections', async () => {
    server.assertRunning();
    return (await ready()).code === 0;
  });
  const create = await run([
    program('psql'), '--no-psqlrc', '-h', '127.0.0.1', '-p', String(port), '-U', user, '-d', 'postgres', '-c', 'CREATE DATABASE portcullis',
  ], { env: { PGPASSWORD: password } });
  assert.equal(create.code, 0, create.stderr);
  return { port, server };
}
