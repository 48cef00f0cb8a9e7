// The admin API as `docs/openapi/admin.json` describes it: schemathesis makes requests from the document, right ones and wrong
// ones, with the operator token, and holds each answer against it: status, type, headers and body, no fault, 401 without the
// token, 405 with `Allow` for other methods. Before that, every operation is asked without a credential, and every read as a viewer;
// after that it walks from answers to further requests.
//
//   node api.mjs [--seed N] [--examples N]
//
// The gateway has one of most things, put into the document as examples, so that there are answers to hold against it. What is
// deleted has one of its own, and each address is another, so that nobody is sent away for trying too many wrong tokens.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { KEY, addPerson, anywhere, startGatekeeper } from './gatekeeper.mjs';
import { freePort, relay, root, suite, toml } from './lib.mjs';
import { BASE, CHECKS, compare, explore, operationsOf } from './schemathesis.mjs';

const { values: options } = parseArgs({ options: { seed: { type: 'string', default: '1' }, examples: { type: 'string', default: '10' } } });
const DOCUMENT = path.join(root, 'docs/openapi/admin.json');
/**
 * What is never but refused, since there is none of it without a policy, a provider or a person at a browser, or no second one
 * to go to: suites of Rust go there.
 */
const NEEDS_MORE = [
  /^GET \/api\/v1\/(approvals|recordings|connections)\/\{id\}$/, /^POST \/api\/v1\/approvals\//, /^DELETE \/api\/v1\/(connections|grants)\//,
  /^POST \/api\/v1\/connections\//, /^POST \/api\/v1\/upstreams\/\{name\}\/connect$/, /^POST \/api\/v1\/vault\/shred$/,
  /^POST \/api\/v1\/policies\/modules$/, /^POST \/api\/v1\/pins\/forget$/,
];
/** What reads, and is not for viewers. */
const NOT_FOR_VIEWERS = [/^GET \/api\/v1\/(recordings|store\/backup|store\/verify|policies\/in-force\/\{name\})$/];
const ALL = [...CHECKS, 'missing_required_header', 'positive_data_acceptance', 'use_after_free', 'ensure_resource_availability'];
/** Statuses that refuse what is wrong. */
const REFUSALS = [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 428, 429];
/**
 * How long walks from answers to further requests go on, and how many of the ways that schemathesis sees in the document they have
 * gone at least, on a machine that has much else to do. Most of the others begin at an answer that is never given here.
 */
const WALK_SECONDS = 30;
const WAYS = 5;
/** What is told of after it was deleted: accounts, as `deleted`, for as long as the trail may name them. */
const KEPT = /^\/api\/v1\/users\/\{id\}/;
/** Longest run of schemathesis: with ten examples it takes two minutes where nothing else is done. */
const RUN_MS = 500_000 + 10_000 * Number(options.examples);

await suite('api', async (report) => {
  const port = await freePort();
  const house = await startGatekeeper('api', { admin: `127.0.0.1:${port}` });
  const frontPort = await freePort();
  await relay({ port: frontPort, target: `http://127.0.0.1:${port}`, from: anywhere });
  const origin = `http://127.0.0.1:${frontPort}`;
  const document = JSON.parse(readFileSync(DOCUMENT, 'utf8'));

  for (const [at, item] of Object.entries(document.paths)) {
    for (const [method] of operationsOf(item)) {
      await report.check(`${method.toUpperCase()} ${at} wants a credential`, async () => {
        for (const headers of [{}, { authorization: 'Bearer wrong' }]) {
          const answer = await fetch(`${origin}${at.replaceAll(/\{[^}]*\}/g, 'x')}`, { method: method.toUpperCase(), headers });
          const problem = await answer.json();
          assert.equal(answer.status, 401, JSON.stringify(problem));
          assert.equal(answer.headers.get('content-type'), 'application/problem+json');
          assert.match(answer.headers.get('www-authenticate'), /^Bearer /);
          assert.equal(problem.code, 'unauthenticated');
        }
      });
    }
  }

  await report.check('the gateway serves the document that is in the repository', async () => {
    const answer = await fetch(`${origin}/api/v1/openapi.json`, { headers: { authorization: `Bearer ${house.operatorToken}` } });
    assert.deepEqual(await answer.json(), document);
  });

  const viewer = await furnish(house, document, origin);
  const settings = (token, refusals = []) => `${BASE}
    [checks.negative_data_rejection]
    expected-statuses = [${REFUSALS.join(', ')}]
    [checks.missing_required_header]
    # What the file declares, or nobody, is told so first.
    expected-statuses = [404, 409, 428]
    [auth.openapi.bearer]
    bearer = ${toml(token)}
    ${valuesThatMayBeRefused(document, refusals)}
  `;
  const asked = { document, origin, checks: ALL, within: RUN_MS, ...options };
  // First, while all that there is is there.
  const { status, body: token } = await house.operate('POST', '/api/v1/api-tokens', { name: 'reads', user: viewer, role: 'viewer' });
  assert.equal(status, 201, JSON.stringify(token));
  const asViewer = await explore({ ...asked, settings: settings(token.secret, [403]), method: 'GET', phases: 'examples,coverage' });
  await compare(report, asViewer, [...NEEDS_MORE, ...NOT_FOR_VIEWERS], 'a viewer ');

  const found = await explore({ ...asked, settings: settings(house.operatorToken) });
  await compare(report, found, NEEDS_MORE);

  const walked = await explore({ ...asked, settings: settings(house.operatorToken), phases: 'stateful', seconds: WALK_SECONDS });
  await report.check(`what answers name is there, and what was deleted is not (${walked.ways} ways)`, () => {
    assert.deepEqual([...walked.judged].filter(([, why]) => why !== undefined), []);
    assert.ok(walked.ways >= WAYS, 'too few ways');
  });
  await report.check('the gateway is still there', () => house.gateway.assertRunning());
});

/**
 * What a document cannot say of values, so that what it allows may be refused: that a cursor is one of ours, that nobody has changed
 * a thing meanwhile, that a number is not too large to be a row's, that values go together and name what there is. Of an optional `If-Match`, schemathesis makes up values that
 * its pattern does not allow.
 */
function valuesThatMayBeRefused(document, others) {
  return Object.entries(document.paths).flatMap(([at, item]) => operationsOf(item).map(([method, { parameters = [], requestBody }]) => {
    const has = (place, name) => parameters.some((one) => one.in === place && (name === undefined || one.name === name));
    const refusals = [
      ...(has('query', 'cursor') || has('query', 'after') || has('header', 'If-Match') || at === '/api/v1/vault/verify' ? [400] : []),
      ...(has('header', 'If-Match') ? [412] : []),
      ...(has('query') || requestBody !== undefined ? [422] : []),
    ];
    return `
    [[operations]]
    include-name = ${toml(`${method.toUpperCase()} ${at}`)}
    checks.positive_data_acceptance.expected-statuses = ${toml(['2xx', 404, 409, ...others, ...refusals])}
    checks.use_after_free.enabled = ${!KEPT.test(at)}
    `;
  })).join('');
}

/** Makes one of most things, and puts them into the document as examples. The id of a viewer. */
async function furnish({ operate, operatorToken, fixture, url }, document, origin) {
  const made = async (target, body) => {
    const answer = await operate('POST', target, body);
    assert.ok([200, 201].includes(answer.status), `${target}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  };
  const definition = { transport: 'streamable-http', url: fixture };
  const key = async (name) => (await made('/api/v1/keys', { name, allow: [{ upstream: 'up', tools: ['*'] }] })).name;
  const upstream = async (name) => (await made('/api/v1/upstreams', { name, definition })).name;
  const user = async (login) => (await addPerson(operate, { login, password: 'correct horse battery staple' })).id;
  const client = async (client_name) => {
    const metadata = { client_name, redirect_uris: ['https://app.example/callback'], token_endpoint_auth_method: 'client_secret_basic' };
    return (await made('/api/v1/clients', metadata)).client_id;
  };
  await call(url);
  const [{ id: decision }] = (await until(operate, '/api/v1/decisions')).decisions;

  const example = (operation, place, name, value) => {
    const parameter = document.paths[operation[1]][operation[0]].parameters.find((one) => one.in === place && one.name === name);
    assert.ok(parameter, `${operation}: ${name}`);
    parameter.example = value;
  };
  const body = (operation, value) => {
    for (const media of Object.values(document.paths[operation[1]][operation[0]].requestBody.content)) media.example = value;
  };
  for (const [area, name, make, patched] of [
    ['keys', 'name', key, { disabled: false }],
    ['upstreams', 'name', upstream, { enabled: true }],
    ['users', 'id', user, { name: 'Somebody' }],
    ['clients', 'id', client, { client_name: 'Another' }],
  ]) {
    const [kept, lost] = [await make('kept'), await make('lost')];
    const at = `/api/v1/${area}/{${name}}`;
    for (const method of ['get', 'patch']) example([method, at], 'path', name, kept);
    example(['delete', at], 'path', name, lost);
    body(['patch', at], patched);
  }
  example(['patch', '/api/v1/upstreams/{name}'], 'header', 'If-Match', '*');
  for (const action of ['try', 'refresh']) example(['post', `/api/v1/upstreams/{name}/${action}`], 'path', 'name', 'kept');
  for (const method of ['get', 'delete']) {
    example([method, '/api/v1/users/{id}/sessions'], 'path', 'id', document.paths['/api/v1/users/{id}'].get.parameters[0].example);
  }
  body(['post', '/api/v1/upstreams'], { name: 'another', definition });
  body(['post', '/api/v1/upstreams/try'], { name: 'another', definition });
  body(['post', '/api/v1/keys'], { name: 'another', allow: [] });
  body(['post', '/api/v1/users'], { login: 'another', name: 'Another' });
  body(['post', '/api/v1/clients'], { client_name: 'Another', redirect_uris: ['https://another.example/callback'] });
  body(['post', '/api/v1/grants/revoke'], { kind: 'guest' });
  const { id: viewer } = await addPerson(operate, { login: 'viewer', password: 'correct horse battery staple', role: 'viewer' });
  body(['post', '/api/v1/api-tokens'], { name: 'another', user: viewer });
  const { id: token } = await made('/api/v1/api-tokens', { name: 'lost', user: viewer });
  example(['delete', '/api/v1/api-tokens/{id}'], 'path', 'id', token);

  const upload = async (name) => {
    const answer = await fetch(`${origin}/api/v1/policies/modules`, {
      method: 'POST', body: readFileSync(path.join(root, `policies/prebuilt/${name}.wasm`)),
      headers: { authorization: `Bearer ${operatorToken}`, 'content-type': 'application/wasm' },
    });
    assert.equal(answer.status, 201, name);
    return (await answer.json()).digest;
  };
  const bound = { module: `sha256:${await upload('redact')}`, mode: 'off' };
  const loose = await upload('rate-limit');
  for (const [method, id] of [['get', loose], ['delete', loose]]) example([method, '/api/v1/policies/modules/{id}'], 'path', 'id', id);
  const binding = async (name) => {
    await made('/api/v1/policies/bindings', { name, definition: bound });
    return name;
  };
  const [keptBinding, lostBinding] = [await binding('kept'), await binding('lost')];
  const ofBinding = '/api/v1/policies/bindings/{name}';
  for (const method of ['get', 'patch']) example([method, ofBinding], 'path', 'name', keptBinding);
  example(['patch', ofBinding], 'header', 'If-Match', '*');
  body(['patch', ofBinding], { definition: { priority: 7 } });
  example(['delete', ofBinding], 'path', 'name', lostBinding);
  example(['post', `${ofBinding}/rehearse`], 'path', 'name', keptBinding);
  example(['get', '/api/v1/policies/in-force/{name}'], 'path', 'name', keptBinding);
  body(['post', `${ofBinding}/rehearse`], { definition: bound });
  body(['post', '/api/v1/policies/bindings'], { name: 'another', definition: bound });
  const [{ tool }] = (await operate('GET', '/api/v1/pins?upstream=up')).body.pins;
  body(['post', '/api/v1/policies/try'], { call: { principal: 'key:test', upstream: 'up', tool, arguments: {} } });

  const rotated = await key('rotated');
  await made(`/api/v1/keys/${rotated}/rotate`, { overlap: 3600 });
  example(['delete', '/api/v1/keys/{name}/earlier'], 'path', 'name', rotated);
  example(['post', '/api/v1/keys/{name}/rotate'], 'path', 'name', await key('rotates'));
  body(['post', '/api/v1/keys/{name}/rotate'], { overlap: 60 });
  example(['get', '/api/v1/decisions/{id}'], 'path', 'id', decision);
  example(['get', '/api/v1/audit/{id}'], 'path', 'id', '1');
  example(['get', '/api/v1/pins/definition'], 'query', 'upstream', 'up');
  const { pins: [pin] } = (await operate('GET', '/api/v1/pins?upstream=up')).body;
  example(['get', '/api/v1/pins/definition'], 'query', 'tool', pin.tool);
  body(['post', '/api/v1/pins/accept'], { upstream: 'up', tool: pin.tool });
  const { kid } = await made('/api/v1/signing-keys/rotate', { now: false });
  example(['post', '/api/v1/signing-keys/{id}/revoke'], 'path', 'id', kid);
  return viewer;
}

/** A list that has something on it, before long. */
async function until(operate, target) {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const { body } = await operate('GET', target);
    if (Object.values(body).some((member) => member?.length > 0)) return body;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${target} stays empty`);
}

/** Calls a tool that there is not, so that there is a decision to look at, whatever the upstream offers. */
async function call(url) {
  const send = async (message, headers = {}) => fetch(url, {
    method: 'POST', body: JSON.stringify({ jsonrpc: '2.0', ...message }), headers: {
      authorization: `Bearer ${KEY}`, 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers,
    },
  });
  const begun = await send({
    id: 1, method: 'initialize',
    params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'api', version: '1' } },
  });
  assert.equal(begun.status, 200, await begun.text());
  const session = { 'mcp-session-id': begun.headers.get('mcp-session-id'), 'mcp-protocol-version': '2025-11-25' };
  await send({ method: 'notifications/initialized' }, session);
  const listed = await send({ id: 2, method: 'tools/list' }, session);
  const text = await listed.text();
  const [, name] = /"name":"([^"]+)"/.exec(text);
  const called = await send({ id: 3, method: 'tools/call', params: { name, arguments: {} } }, session);
  assert.equal(called.status, 200, await called.text());
}
