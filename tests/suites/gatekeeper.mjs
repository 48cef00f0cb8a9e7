// A gateway with its authorization server, people and clients, for the suites that sign in.

import assert from 'node:assert/strict';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import http from 'node:http';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { built, freePort, relay, run, scratch, start, startGateway, toml, until } from './lib.mjs';

export const KEY = 'pk_suites-with-people-full-access-00000000000000';
export const PERSON = { login: 'ann', password: 'correct horse battery staple' };

/** Everybody that one can be. */
export const EVERYBODY = { 'a person': PERSON, 'a virtual key': { key: KEY }, 'a guest': 'guest' };

/** Another machine, as far as the gateway can see: it counts what strangers do by their addresses. */
export const anywhere = () => `127.${randomInt(1, 255)}.${randomInt(0, 256)}.${randomInt(1, 255)}`;

/**
 * A fixture upstream, a gateway in front of it with these settings besides, and the person. What is asked of it comes from
 * many addresses, unless `from` names others. `onDisk` is for who wants to see its store fail: see `fillDisk`. `admin` is where the
 * admin listener is, whose token stands in `operatorToken`.
 */
export async function startGatekeeper(name, options = {}) {
  const { settings = '', top = '', upstreams = ['up'], eras = [], from = anywhere, onDisk = false, admin = 'off' } = options;
  const [fixturePort, gatewayPort, frontPort] = [await freePort(), await freePort(), await freePort()];
  const fixture = start(`${name}-fixture`, [built('fixture-upstream'), 'http', String(fixturePort), ...eras]);
  await until('the fixture upstream listens', async () => {
    fixture.assertRunning();
    return await fetch(`http://127.0.0.1:${fixturePort}/mcp`);
  });
  const origin = `http://127.0.0.1:${frontPort}`;
  await relay({ port: frontPort, target: `http://127.0.0.1:${gatewayPort}`, from });
  const data = scratch();
  const gateway = await startGateway(`${name}-gateway`, `
    public_url = ${toml(origin)}
    data_dir = ${toml(data)}
    ${top}
    [listen]
    public = ${toml(`127.0.0.1:${gatewayPort}`)}
    admin = ${toml(admin)}
    [store]
    url = ${toml(onDisk ? `redb:${path.join(data, 'portcullis.redb')}` : 'memory:')}
    ${upstreams.map((upstream) => `
    [upstreams.${upstream}]
    transport = "streamable-http"
    url = ${toml(`http://127.0.0.1:${fixturePort}/mcp`)}`).join('')}
    [keys.test]
    secret = "env:PORTCULLIS_TEST_KEY"
    allow = [{ upstream = "*", tools = ["*"] }]
    [auth]
    guests = true
    ${settings}
  `, { origin, env: { PORTCULLIS_TEST_KEY: KEY }, before: onDisk ? IGNORING_FULL_DISKS : [] });
  const operate = operator(path.join(data, 'admin.sock'));
  await addPerson(operate, PERSON);
  const operatorToken = readFileSync(path.join(data, 'operator-token'), 'utf8').trim();
  return { gateway, origin, url: `${origin}/mcp`, operate, operatorToken, fixture: `http://127.0.0.1:${fixturePort}/mcp` };
}

/** A shell that becomes a program which is told of a file that may not grow with an error, and not by a signal that ends it. */
const IGNORING_FULL_DISKS = ['sh', '-c', 'trap "" XFSZ; exec "$@"', 'sh'];

/** Makes what a gateway writes to files fail from now on, as if there were no room. */
export async function fillDisk(gateway) {
  const { code, stderr } = await run(['prlimit', '--pid', String(gateway.pid), '--fsize=1']);
  assert.equal(code, 0, stderr);
}

/** Asks the admin API at its socket. */
export function operator(socketPath) {
  return (method, target, body) => new Promise((resolve, reject) => {
    const request = http.request({
      socketPath, method, path: target, headers: { host: 'localhost', 'content-type': 'application/json' },
    }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => (text += part));
      answer.on('end', () => resolve({ status: answer.statusCode, body: text === '' ? undefined : JSON.parse(text) }));
    });
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

export async function addPerson(operate, { login, password, name = login, role = 'user' }) {
  const { status, body } = await operate('POST', '/api/v1/users', { login, name, password, role });
  assert.equal(status, 201, JSON.stringify(body));
  return body;
}

export const random = () => randomBytes(32).toString('base64url');

/** Registers a client at the gateway. */
export async function register(origin, metadata) {
  const answer = await fetch(`${origin}/oauth2/register`, {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token_endpoint_auth_method: 'none', ...metadata }),
  });
  const body = await answer.json();
  return { status: answer.status, ...body };
}

/** A client of this gateway that anybody could have registered. */
export async function newClient(origin, redirect, metadata = {}) {
  const client = await register(origin, { redirect_uris: [redirect], ...metadata });
  assert.equal(client.status, 201, JSON.stringify(client));
  return { id: client.client_id, redirect };
}

/** An authorization request of a client, and how its code is redeemed. */
export function request(origin, { id, redirect, resource = `${origin}/mcp`, scope = 'mcp', ...others }) {
  const verifier = random();
  const fields = {
    response_type: 'code', client_id: id, redirect_uri: redirect, state: random(), scope, resource,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256', ...others,
  };
  return {
    url: `${origin}/oauth2/authorize?${new URLSearchParams(fields)}`,
    state: fields.state,
    redeem: (code) => token(origin, {
      grant_type: 'authorization_code', code, redirect_uri: redirect, client_id: id, code_verifier: verifier, resource,
    }),
  };
}

/** Asks the token endpoint. */
export async function token(origin, fields, headers = {}) {
  const answer = await fetch(`${origin}/oauth2/token`, { method: 'POST', body: new URLSearchParams(fields), headers });
  return { status: answer.status, headers: answer.headers, ...await answer.json() };
}

/** Writes a file that only its owner reads; its path. */
export function secretFile(name, content) {
  const file = path.join(scratch(), name);
  writeFileSync(file, content, { mode: 0o600 });
  return file;
}
