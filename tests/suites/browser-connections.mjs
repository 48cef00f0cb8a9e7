// Connections to upstreams that want a credential of whoever calls, in Chromium: made at an authorization server that others
// wrote, node-oidc-provider, or with a form; used by a public MCP client; ended.

import assert from 'node:assert/strict';
import { setTimeout as wait } from 'node:timers/promises';

import { VIEWS, Walk, at } from './browser-judge.mjs';
import { KEY, PERSON, addPerson, newClient, request, startGatekeeper } from './gatekeeper.mjs';
import { freePort, start, suiteFile, toml, until } from './lib.mjs';
import { connectV1 } from './peers.mjs';
import { Visitor } from './visitor.mjs';

const CHECK_MS = 60_000;
const ANN = PERSON;
const BEN = { ...PERSON, login: 'ben' };
/** Somebody who never connects anything. */
const ZOE = { ...PERSON, login: 'zoe' };
/** Who connects and disconnects, in each view. */
const OWNERS = ['ida', 'kim', 'lee', 'sam'].map((login) => ({ ...PERSON, login }));

/** Somebody at the authorization server whose access tokens live that long: see protected.mjs. */
const HASTY = { name: 'hasty', lifeSeconds: 5 };
const LIVES = 3;
const HERE = ['127.0.0.1', 'localhost'];

/** Makes, uses and ends connections as everybody, and looks at the pages for it. */
export async function checkConnections(report, { application }) {
  const [port, issuerPort] = [await freePort(), await freePort()];
  const upstream = `http://127.0.0.1:${port}`;
  const server = start('browser-protected', [process.execPath, suiteFile('protected.mjs'), String(port), String(issuerPort)]);
  await until('the protected upstream listens', async () => {
    server.assertRunning();
    return (await fetch(`${upstream}/tokens/nobody`)).ok;
  });
  const { gateway, origin, url, operate } = await startGatekeeper('browser-connections', {
    upstreams: [],
    top: `outbound = { allow = ["localhost:${issuerPort}"] }`,
    settings: `
      [auth.clients]
      registrations_per_minute = 10000
      [upstreams.mail]
      url = ${toml(`${upstream}/mcp`)}
      auth = { kind = "per-user-oauth" }
      [upstreams.notes]
      url = ${toml(`${upstream}/closed`)}
      auth = { kind = "per-user-oauth" }
      [upstreams.crm]
      url = ${toml(`${upstream}/keyed`)}
      auth = { kind = "per-user-headers", headers = ["X-Api-Key", "X-Workspace"] }
    `,
  });
  for (const { login, password } of [BEN, ZOE, ...OWNERS]) await addPerson(operate, { login, password });
  const scene = {
    origin, operate,
    client: await newClient(origin, application.url, { client_name: 'Claude Code' }),
    /** What is good at the authorization server, of somebody. */
    tokensOf: async (name) => await (await fetch(`${upstream}/tokens/${name}`)).json(),
    /** An MCP client with a key or an access token. */
    connect: async (credential) => await connectV1(url, { authorization: `Bearer ${credential}` }),
    /** Calls an upstream as one. */
    whoami: async (name, credential) => {
      const client = await scene.connect(credential);
      try {
        return await client.call(`${name}__whoami`, {});
      } finally {
        await client.close();
      }
    },
  };
  await until('what there is to call is known', async () => {
    const { upstreams } = (await operate('GET', '/api/v1/upstreams')).body;
    return upstreams.filter(({ state }) => state === 'up').length === 2;
  });
  await checkOperator(report, scene);
  await checkTogether(report, scene);
  await checkKey(report, scene);
  await checkGuest(report, scene);
  await checkLinks(report, scene);
  await checkDisconnecting(report, scene);
  for (const [which, view] of VIEWS.entries()) await seeConnections(report, scene, { view, owner: OWNERS[which] });
  await gateway.stop();
  await server.stop();
}

// ---- what somebody does ---------------------------------------------------------------------------------------

/** Somebody with a browser that gets nowhere but here: the provider's pages ask for a font from elsewhere. */
export async function arrive(options = {}) {
  return await keepHere(await Visitor.arrive(options));
}

async function keepHere(visitor) {
  await visitor.context.route(({ hostname }) => !HERE.includes(hostname), (route) => route.abort());
  return visitor;
}

/** Comes with a request of the application, as somebody, up to the list of services. */
async function come({ origin, client }, visitor, who) {
  const begun = request(origin, client);
  await visitor.page.goto(begun.url);
  await visitor.choose(who);
  return begun;
}

/** Lets the application in: the access token that it gets. */
async function finish({ client }, visitor, begun) {
  const isBack = (sent) => sent.url().startsWith(client.redirect);
  const [sent] = await Promise.all([visitor.page.waitForRequest(isBack), visitor.press('finish')]);
  const tokens = await begun.redeem(new URL(sent.url()).searchParams.get('code'));
  assert.equal(tokens.status, 200, JSON.stringify(tokens));
  return tokens.access_token;
}

/** Goes from the page of an upstream to its provider. */
export async function leaveFor(page, upstream) {
  await page.locator(`form[action$="/connect/${upstream}"] button`).click();
  await page.waitForURL(/\/interaction\//);
}

/** Is somebody at the provider, and has no objection. */
async function agree(page, name) {
  const [login, consent] = [page.locator('input[name=login]'), page.locator('input[name=prompt][value=consent]')];
  await login.or(consent).first().waitFor({ state: 'attached' });
  if (await login.count() > 0) {
    await login.fill(name);
    await page.locator('input[name=password]').fill('anything');
    await page.locator('button[type=submit]').click();
  }
  await consent.waitFor({ state: 'attached' });
  await page.locator('button[type=submit]').click();
}

/** Gives values for headers. */
export async function give(page, values) {
  for (const [name, value] of Object.entries(values)) await page.locator(`input[name="header-${name}"]`).fill(value);
  await page.locator('form[action*="/connect/"] button').click();
}

/** The line about an upstream, in a list of them. */
const rowOf = (page, upstream) => page.locator('main ul.rows > li', { hasText: upstream });

const said = async (page) => await page.locator('main').innerText();

/** Who a call was made as. */
function caller(result) {
  assert.ok(result.isError !== true, JSON.stringify(result));
  return JSON.parse(result.content[0].text);
}

/** What a call lacked, with the address to go to. */
export function lacked(result) {
  assert.equal(result.isError, true, JSON.stringify(result));
  const [lack, ...others] = result._meta['portcullis/connections'];
  assert.deepEqual(others, []);
  assert.ok(result.content[0].text.includes(lack.url), result.content[0].text);
  return lack;
}

// ---- the checks -----------------------------------------------------------------------------------------------

async function checkOperator(report, { operate }) {
  await report.check('an operator connects the gateway to what lists nothing to strangers', async () => {
    const link = await operate('POST', '/api/v1/upstreams/notes/connect');
    assert.equal(link.status, 200, JSON.stringify(link));
    const visitor = await arrive();
    const { page } = visitor;
    await page.goto(link.body.url, { waitUntil: 'commit' });
    await page.waitForURL(at('/connect/notes'));
    assert.match(await said(page), /the gateway itself[^]*Not connected[^]*Was this you/);
    await leaveFor(page, 'notes');
    await agree(page, 'gateway');
    await page.waitForURL(at('/connect/notes'));
    assert.match(await said(page), /\bConnected/);
    assert.equal((await operate('POST', '/api/v1/upstreams/notes/refresh')).status, 202);
    await until('its tools are known', async () => {
      const { upstreams } = (await operate('GET', '/api/v1/upstreams')).body;
      return upstreams.every(({ state }) => state === 'up');
    });
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: CHECK_MS });
}

async function checkTogether(report, scene) {
  const people = [ANN, BEN];
  await report.check('two people connect an upstream at once while they consent, and are themselves there', async () => {
    const ways = await Promise.all(people.map(async (person) => {
      const visitor = await arrive();
      const { page } = visitor;
      const begun = await come(scene, visitor, person);
      assert.match(await rowOf(page, 'mail').innerText(), /Not connected/);
      await rowOf(page, 'mail').getByRole('link', { name: 'Connect' }).click();
      await page.waitForURL(at('/connect/mail'));
      assert.match(await said(page), new RegExp(`${person.login}[^]*You go to localhost`));
      await leaveFor(page, 'mail');
      return { person, visitor, begun };
    }));
    await Promise.all(ways.map(async ({ person, visitor, begun }) => {
      const { page } = visitor;
      await agree(page, `${person.login}-elsewhere`);
      await page.waitForURL(at('/oauth2/consent/'));
      assert.match(await rowOf(page, 'mail').innerText(), /\bConnected/);
      const token = await finish(scene, visitor, begun);
      const { subject, scheme } = caller(await scene.whoami('mail', token));
      assert.deepEqual([subject, scheme], [`${person.login}-elsewhere`, 'Bearer']);
      visitor.assertUntroubled();
      await visitor.leave();
    }));
  }, { within: CHECK_MS });
  await report.check('each has tokens of their own there', async () => {
    for (const { login } of people) {
      const { access, refresh } = await scene.tokensOf(`${login}-elsewhere`);
      assert.deepEqual([login, access, refresh], [login, 1, 1]);
    }
  });
}

async function checkKey(report, { connect, tokensOf, whoami }) {
  let address;
  const visitor = await arrive();
  const { page } = visitor;
  await report.check('a virtual key connects by the link that its agent shows', async () => {
    const { url, kind, state } = lacked(await whoami('mail', KEY));
    assert.deepEqual([kind, state], ['oauth', 'not_connected']);
    address = new URL(url);
    assert.equal(address.pathname, '/connect/link');
    assert.ok(address.hash.length > 40, url);
    await page.goto(url, { waitUntil: 'commit' });
    await page.waitForURL(at('/connect/mail'));
    assert.ok(!page.url().includes(address.hash.slice(1)), page.url());
    assert.equal(await page.evaluate(() => location.hash), '');
    assert.match(await said(page), /the virtual key test[^]*Not connected[^]*Was this you/);
    await leaveFor(page, 'mail');
    await agree(page, HASTY.name);
    await page.waitForURL(at('/connect/mail'));
    assert.match(await said(page), /\bConnected/);
    assert.equal(await page.locator('form[action$="/connect/mail"]').count(), 0, 'the link is good for more');
    assert.equal(caller(await whoami('mail', KEY)).subject, HASTY.name);
    visitor.assertUntroubled();
  }, { within: CHECK_MS });
  await report.check('going back shows nothing of that link', async () => {
    for (let steps = 0; steps < 10 && await page.goBack().catch(() => null) !== null; steps += 1) {
      assert.ok(!page.url().includes(address.hash.slice(1)), page.url());
    }
    await visitor.leave();
  });
  await report.check('the link of a key opens in no second browser', async () => {
    const other = await arrive();
    const [refused] = await Promise.all([
      other.page.waitForResponse((answer) => answer.request().method() === 'POST'),
      other.page.goto(address.href, { waitUntil: 'commit' }),
    ]);
    assert.equal(refused.status(), 403);
    await other.page.getByText('was opened already').waitFor();
    assert.equal(await other.page.evaluate(() => location.hash), '');
    await other.leave();
  });
  await report.check(`a connection outlives ${LIVES} access tokens of ${HASTY.lifeSeconds} seconds`, async () => {
    const clients = await Promise.all([1, 2, 3].map(() => connect(KEY)));
    const ends = performance.now() + LIVES * HASTY.lifeSeconds * 1000;
    while (performance.now() < ends) {
      const answers = await Promise.all(clients.map((client) => client.call('mail__whoami', {})));
      for (const answer of answers) assert.equal(caller(answer).subject, HASTY.name);
      await wait(200);
    }
    await Promise.all(clients.map((client) => client.close()));
    const { refresh, renewed } = await tokensOf(HASTY.name);
    assert.equal(refresh, 1);
    assert.ok(renewed >= LIVES - 1, `it was renewed ${renewed} times`);
  }, { within: CHECK_MS });
}

async function checkGuest(report, scene) {
  await report.check('a guest connects while they consent', async () => {
    const visitor = await arrive();
    const { page } = visitor;
    const begun = await come(scene, visitor, 'guest');
    await rowOf(page, 'mail').getByRole('link', { name: 'Connect' }).click();
    await page.waitForURL(at('/connect/mail'));
    assert.match(await said(page), /a guest/);
    await leaveFor(page, 'mail');
    await agree(page, 'somebody');
    await page.waitForURL(at('/oauth2/consent/'));
    assert.match(await rowOf(page, 'mail').innerText(), /\bConnected/);
    assert.equal(caller(await scene.whoami('mail', await finish(scene, visitor, begun))).subject, 'somebody');
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: CHECK_MS });
  await report.check('another guest has nothing of that', async () => {
    const visitor = await arrive();
    const begun = await come(scene, visitor, 'guest');
    assert.match(await rowOf(visitor.page, 'mail').innerText(), /Not connected/);
    assert.equal(lacked(await scene.whoami('mail', await finish(scene, visitor, begun))).state, 'not_connected');
    await visitor.leave();
  }, { within: CHECK_MS });
}

async function checkLinks(report, scene) {
  const [ann, ben, again] = [await arrive(), await arrive(), await arrive()];
  let [token, address] = [];
  await report.check('a link of one person leads no other anywhere', async () => {
    token = await finish(scene, ann, await come(scene, ann, ANN));
    address = lacked(await scene.whoami('notes', token)).url;
    assert.equal(new URL(address).hash, '');
    await come(scene, ben, BEN);
    const answer = await ben.page.goto(address);
    assert.equal(answer.status(), 403);
    assert.match(await said(ben.page), /somebody else.s/i);
  }, { within: CHECK_MS });
  await report.check('whose it is connects by it', async () => {
    await ann.page.goto(address);
    assert.ok(at('/connect/notes')(new URL(ann.page.url())), ann.page.url());
    assert.match(await said(ann.page), /ann[^]*Not connected/);
    await leaveFor(ann.page, 'notes');
    await agree(ann.page, 'ann-elsewhere');
    await ann.page.waitForURL(at('/connect/notes'));
    assert.match(await said(ann.page), /\bConnected/);
  }, { within: CHECK_MS });
  await report.check('and is served at that upstream', async () => {
    assert.equal(caller(await scene.whoami('notes', token)).subject, 'ann-elsewhere');
  });
  await report.check('nor does it open in another browser of theirs', async () => {
    const isLink = at(new URL(address).pathname);
    await again.page.goto(address);
    await again.page.waitForURL(at('/sign-in'));
    const [refused] = await Promise.all([
      again.page.waitForResponse((answer) => isLink(new URL(answer.url()))),
      again.signIn(ANN.login, ANN.password),
    ]);
    assert.equal(refused.status(), 403);
    await again.page.getByText('was opened already').waitFor();
  }, { within: CHECK_MS });
  for (const visitor of [ann, ben, again]) await visitor.leave();
}

async function checkDisconnecting(report, scene) {
  const visitor = await arrive();
  const { page } = visitor;
  let token;
  await report.check('who disconnects has nothing left at the provider', async () => {
    token = await finish(scene, visitor, await come(scene, visitor, BEN));
    assert.equal(caller(await scene.whoami('mail', token)).subject, 'ben-elsewhere');
    await page.goto(`${scene.origin}/account`);
    assert.match(await rowOf(page, 'mail').innerText(), /\bConnected/);
    await page.locator('form[action$="/account/connections/mail/disconnect"] button').click();
    await page.getByText('Done:').waitFor();
    assert.match(await rowOf(page, 'mail').innerText(), /Not connected/);
    await until('their tokens are revoked', async () => {
      const { access, refresh } = await scene.tokensOf('ben-elsewhere');
      return access === 0 && refresh === 0;
    });
  }, { within: CHECK_MS });
  await report.check('and is asked again by the next call', async () => {
    const { state, url } = lacked(await scene.whoami('mail', token));
    assert.equal(state, 'not_connected');
    assert.ok(url.startsWith(`${scene.origin}/connect/link/`), url);
  });
  await report.check('while others go on', async () => {
    const { access, refresh } = await scene.tokensOf('somebody');
    assert.deepEqual([access, refresh], [1, 1]);
  });
  await visitor.leave();
}

// ---- the pages ------------------------------------------------------------------------------------------------

/** Goes through the pages for whoever connects, whoever disconnects, and whoever has somebody else's link. */
async function seeConnections(report, scene, { view, owner }) {
  const { origin, operate } = scene;
  // Whoever goes to a provider leaves our pages.
  const walk = await Walk.begin(report, view);
  const { page, visitor } = walk;
  await keepHere(visitor);
  const choose = (upstream) => rowOf(page, upstream).getByRole('link', { name: /^Connect/ }).click();
  await walk.seen('services-to-connect', () => come(scene, visitor, owner), /crm\s+Not connected[^]*Connect all/);
  await walk.seen('connection-at-consent', async () => {
    await choose('mail');
    await page.waitForURL(at('/connect/mail'));
  }, /Not connected[^]*You go to localhost[^]*Back/);
  await walk.seen('account-to-connect', () => page.goto(`${origin}/account`), /mail\s+Not connected/);
  await walk.seen('connection', async () => {
    await choose('mail');
    await page.waitForURL(at('/connect/mail'));
  }, /Not connected[^]*You go to localhost/);
  await walk.seen('connection-declined', async () => {
    await leaveFor(page, 'mail');
    await page.getByText('Cancel').click();
    await page.waitForURL(at('/connect/callback/'));
  }, /Not connected[^]*not allowed/);
  await walk.seen('connection-over', () => page.reload(), /this is over/i);
  await walk.seen('connection-of-headers', async () => {
    await page.goto(`${origin}/account`);
    await choose('crm');
    await page.waitForURL(at('/connect/crm'));
  }, /takes these values[^]*x-api-key[^]*Nothing is stored yet/i);
  await walk.seen('connection-of-headers-refused', async () => {
    const [refused] = await Promise.all([
      page.waitForResponse((answer) => answer.request().method() === 'POST'),
      give(page, { 'x-api-key': 'not-a-key', 'x-workspace': 'sales' }),
    ]);
    assert.equal(refused.status(), 422);
    await page.locator('#problem').waitFor();
    assert.doesNotMatch(await page.content(), /not-a-key|sales/);
  }, /does not take these values[^]*status 401/);
  await walk.seen('account-with-connections', async () => {
    await give(page, { 'x-api-key': `key-of-${owner.login}`, 'x-workspace': 'sales' });
    await page.waitForURL(at('/account'));
    await choose('mail');
    await page.waitForURL(at('/connect/mail'));
    await leaveFor(page, 'mail');
    await agree(page, owner.login);
    await page.waitForURL(at('/account'));
  }, /crm\s+Connected[^]*mail\s+Connected/);
  await walk.seen('connection-again', async () => {
    await choose('mail');
    await page.waitForURL(at('/connect/mail'));
  }, /\bConnected[^]*Connect again/);
  await walk.seen('connection-of-headers-again', () => page.goto(`${origin}/connect/crm`), /a value is stored/i);
  await walk.seen('services-connected', () => come(scene, visitor, owner), /crm\s+Connected[^]*mail\s+Connected/);
  await walk.seen('account-disconnected', async () => {
    await page.goto(`${origin}/account`);
    await page.locator('form[action$="/connections/mail/disconnect"] button').click();
    await page.getByText('Done:').waitFor();
  }, /crm\s+Connected[^]*mail\s+Not connected/);
  await walk.seen('link', () => page.goto(`${origin}/connect/link`), /open a link/i, { scripts: 1 });
  await walk.seen('link-unknown', async () => {
    await page.locator('input[name=link]').fill('not a link');
    await page.locator('form[action$="/connect/link"] button').click();
  }, /does not open anything/i);
  let link;
  await walk.seen('connection-by-link', async () => {
    link = (await operate('POST', '/api/v1/upstreams/notes/connect')).body.url;
    // From the page before it would be a fragment of the same document.
    await page.goto('about:blank');
    await page.goto(link, { waitUntil: 'commit' });
    await page.waitForURL(at('/connect/notes'));
  }, /the gateway itself[^]*was this you/i);
  await walk.seen('link-of-another-browser', async () => {
    await visitor.context.clearCookies();
    await page.goto(link, { waitUntil: 'commit' });
    await page.getByText('was opened already').waitFor();
  }, /another browser has opened it/i);
  await walk.seen('link-of-somebody-else', async () => {
    const zoe = await arrive();
    const token = await finish(scene, zoe, await come(scene, zoe, ZOE));
    await zoe.leave();
    await come(scene, visitor, owner);
    const answer = await page.goto(lacked(await scene.whoami('mail', token)).url);
    assert.equal(answer.status(), 403);
  }, /somebody else.s/i);
  await walk.end();
}
