// A gateway whose console has something to show on every page: one of each thing that has a page of its own, and calls that
// came to every end that there is.

import assert from 'node:assert/strict';
import path from 'node:path';

import { arrive as arriveAnywhere, give, lacked, leaveFor } from './browser-connections.mjs';
import { at } from './browser-judge.mjs';
import { KEY, PERSON, addPerson, newClient, request, startGatekeeper } from './gatekeeper.mjs';
import { freePort, root, start, suiteFile, toml, until } from './lib.mjs';
import { connectV1 } from './peers.mjs';
import { Visitor, callback } from './visitor.mjs';

const ROLES = ['viewer', 'operator', 'owner'];
const PASSWORD = 'correct horse battery staple';
const DAY_MS = 24 * 3600 * 1000;

/** What servers of an MCP client look like that somebody pastes. */
export const PASTED = JSON.stringify({
  mcpServers: {
    notes: { url: 'http://127.0.0.1:9/mcp', headers: { Authorization: 'Bearer not-a-real-secret' } },
    files: { command: 'npx', args: ['-y', '@example/files', '/srv'] },
  },
}, undefined, 2);

/** Starts it, with everything in it. */
export async function beginScene() {
  const [port, upstreamPort, issuerPort] = [await freePort(), await freePort(), await freePort()];
  const elsewhere = `http://127.0.0.1:${upstreamPort}`;
  const command = [process.execPath, suiteFile('protected.mjs'), String(upstreamPort), String(issuerPort)];
  const server = start('console-protected', command);
  await until('the protected upstream listens', async () => {
    server.assertRunning();
    return (await fetch(`${elsewhere}/tokens/nobody`)).ok;
  });
  const house = await startGatekeeper('console', {
    admin: `127.0.0.1:${port}`, upstreams: ['calendar', 'tracker'],
    top: `outbound = { allow = ["localhost:${issuerPort}"] }`,
    settings: `
      [policy]
      record = true
      when_all_abstain = "allow"
      [[policies]]
      name = "who-may-what"
      module = "builtin:allow-tools"
      limits = { time = "1s" }
      [policies.config]
      otherwise = "allow"
      [[policies.config.rules]]
      name = "no-echoes"
      tools = ["tracker/echo"]
      action = "deny"
      message = "The tracker says nothing twice. Read the issue itself."
      [[policies]]
      name = "ask-first"
      module = "builtin:confirm-destructive"
      limits = { time = "1s" }
      config = { tools = ["tracker/confirm_delete"] }
      [[policies]]
      name = "careful"
      module = "builtin:confirm-destructive"
      mode = "shadow"
      limits = { time = "1s" }
      [upstreams.away]
      transport = "streamable-http"
      url = ${toml(`http://127.0.0.1:${await freePort()}/mcp`)}
      [upstreams.mail]
      url = ${toml(`${elsewhere}/mcp`)}
      auth = { kind = "per-user-oauth" }
      [upstreams.crm]
      url = ${toml(`${elsewhere}/keyed`)}
      auth = { kind = "per-user-headers", headers = ["X-Api-Key", "X-Workspace"] }
    `,
  });
  const people = {};
  for (const role of ROLES) {
    people[role] = await addPerson(house.operate, { login: role, name: role, password: PASSWORD, role });
  }
  await until('what there is to call is known', async () => {
    const { upstreams } = (await house.operate('GET', '/api/v1/upstreams')).body;
    return upstreams.filter(({ state }) => state === 'up').length === 4;
  });
  const scene = { ...house, people, public: house.origin, origin: `http://127.0.0.1:${port}` };
  Object.assign(scene, await declare(scene));
  Object.assign(scene, await callAll(scene));
  Object.assign(scene, await connectSome(scene));
  Object.assign(scene, await grantOne(scene));
  Object.assign(scene, await makeByForms(scene));
  return scene;
}

/** Signs in at the console as somebody, in a browser of this kind. */
export async function arrive(origin, login, view = {}) {
  const visitor = await Visitor.arrive({ ...view, origin });
  await visitor.page.goto(`${origin}/sign-in`);
  await visitor.signIn(login, PASSWORD);
  await visitor.page.waitForURL(`${origin}/`);
  return visitor;
}

/** How things are made over the API. */
function makerOf({ operate }) {
  return async (target, body) => {
    const answer = await operate('POST', target, body);
    assert.ok([200, 201].includes(answer.status), `${target}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  };
}

/** Keys, upstreams, clients and bindings of the store. */
async function declare(scene) {
  const made = makerOf(scene);
  const soon = new Date(Date.now() + 3 * DAY_MS).toISOString().replace(/\.\d+Z$/, 'Z');
  await made('/api/v1/keys', { name: 'ci', allow: [{ upstream: 'calendar', tools: ['e*', 'a*'] }], expires: soon });
  await made('/api/v1/keys/ci/rotate', { overlap: 3600 });
  await made('/api/v1/keys', { name: 'nightly', allow: [], groups: ['editors'], owner: 'ann' });
  await made('/api/v1/upstreams', { name: 'wiki', definition: { transport: 'streamable-http', url: scene.fixture } });
  await made('/api/v1/clients', { client_name: 'Reports <b>', redirect_uris: ['https://reports.example/callback'] });
  const confidential = await made('/api/v1/clients', {
    client_name: 'Payroll', redirect_uris: ['https://payroll.example/callback'],
    token_endpoint_auth_method: 'client_secret_basic',
  });
  await made('/api/v1/policies/bindings', {
    name: 'limits',
    definition: {
      module: 'builtin:rate-limit', grants: ['counters'], limits: { time: '1s' },
      config: {
        rules: [{ name: 'whoami', tools: ['calendar/whoami'], limit: 2, period: '1h', message: 'Ask again in an hour.' }],
      },
    },
  });
  await made('/api/v1/policies/bindings', {
    name: 'house-rules',
    definition: {
      module: 'builtin:allow-tools', limits: { time: '1s' },
      config: { otherwise: 'allow', rules: [{ name: 'wiki', tools: ['wiki/*'], action: 'allow' }] },
    },
  });
  return { confidential: confidential.client_id };
}

/** Calls that come to every end: how more are made, and the ids of what they led to. */
async function callAll(scene) {
  const { operate, url } = scene;
  const client = await connectV1(url, { authorization: `Bearer ${KEY}` });
  const call = async (name, args = {}) => await client.call(name, args).catch((error) => error);
  const callSome = async () => {
    for (let times = 0; times < 3; times += 1) await call('calendar__echo', { text: 'hello' });
    await call('tracker__echo', { text: 'hello' });
    await call('calendar__whoami');
    await call('calendar__test_error_handling');
    await call('wiki__slow', { ms: 400 });
  };
  await callSome();
  for (let times = 0; times < 3; times += 1) await call('calendar__whoami');
  for (const filename of ['plans.txt', 'letters.txt', 'photos.zip']) await call('tracker__confirm_delete', { filename });
  const approvals = await until('calls wait for somebody', async () => {
    const { body } = await operate('GET', '/api/v1/approvals?state=pending');
    return body.approvals.length === 3 && body.approvals;
  });
  for (const [index, decision] of ['approve', 'deny'].entries()) {
    const { id } = approvals[index];
    const { status, body } = await operate('POST', `/api/v1/approvals/${id}/decision`, { decision, note: 'as agreed' });
    assert.equal(status, 200, JSON.stringify(body));
  }
  const denied = await until('the calls are recorded', async () => {
    const { body } = await operate('GET', '/api/v1/decisions?verdict=deny&limit=50');
    return body.decisions.find(({ tool }) => tool === 'echo');
  });
  return { call, callSome, waiting: approvals[2].id, denied: denied.id };
}

/** One connection that is made, and one that somebody is on the way to. */
async function connectSome(scene) {
  const visitor = await arriveAnywhere();
  const { page } = visitor;
  const come = async (upstream) => {
    await page.goto(lacked(await scene.call(`${upstream}__whoami`)).url, { waitUntil: 'commit' });
    await page.waitForURL(at(`/connect/${upstream}`));
  };
  await come('crm');
  await give(page, { 'x-api-key': 'key-of-test', 'x-workspace': 'sales' });
  await page.getByText('Connected').first().waitFor();
  await come('mail');
  await leaveFor(page, 'mail');
  await visitor.leave();
  const { connections } = (await scene.operate('GET', '/api/v1/connections')).body;
  assert.equal(connections.length, 1, JSON.stringify(connections));
  const { flows } = (await scene.operate('GET', '/api/v1/connections/flows')).body;
  assert.equal(flows.length, 1, JSON.stringify(flows));
  return { connection: connections[0].id };
}

/** A client to which somebody granted something. */
async function grantOne({ public: origin, operate }) {
  const back = await callback();
  const client = await newClient(origin, back.url, { client_name: 'Claude Code' });
  const visitor = await Visitor.arrive();
  const begun = request(origin, client);
  const sent = new URL(await visitor.consent(begun.url, PERSON));
  assert.equal((await begun.redeem(sent.searchParams.get('code'))).status, 200);
  await visitor.leave();
  back.close();
  const { grants } = (await operate('GET', '/api/v1/grants')).body;
  assert.equal(grants.length, 1, JSON.stringify(grants));
  return { client: client.id, grant: grants[0].id, principal: grants[0].principal };
}

/** What an owner makes in a browser: an API token, and a module from a file. */
async function makeByForms({ origin }) {
  const visitor = await arrive(origin, 'owner');
  const { page } = visitor;
  await page.goto(`${origin}/me/tokens/new`);
  await page.locator('input[name=name]').fill('nightly report');
  await page.locator('form[action="/me/tokens/new"] button[type=submit]').click();
  await page.locator('#secret').waitFor();
  await page.goto(`${origin}/policies/modules`);
  await page.locator('input[name=module]').setInputFiles(path.join(root, 'policies/prebuilt/read-only.wasm'));
  await page.locator('form[action="/policies/modules"] button[type=submit]').click();
  await page.waitForURL(/\/policies\/modules\/[0-9a-f]{64}/);
  const module = new URL(page.url()).pathname.split('/').pop();
  visitor.assertUntroubled();
  await visitor.leave();
  return { module };
}
