// People who are known elsewhere: node-oidc-provider, with pages of its own.

import assert from 'node:assert/strict';

import { VIEWS, Walk, at } from './browser-judge.mjs';
import { PERSON, newClient, request, secretFile, startGatekeeper } from './gatekeeper.mjs';
import { freePort, start, suiteFile, toml, until } from './lib.mjs';
import { Visitor } from './visitor.mjs';

const CHECK_MS = 60_000;

/** Signs in through another provider, and sees that nothing else than that does. */
export async function checkProvider(report, { application }) {
  const [port, nobody] = [await freePort(), await freePort()];
  const issuer = `http://127.0.0.1:${port}`;
  const settings = (name, { issuer, label, admit }) => `
      [auth.providers.${name}]
      issuer = ${toml(issuer)}
      client_id = "portcullis"
      client_secret = ${toml(`file:${secretFile('provider', 'a-secret-of-the-gateway-at-the-provider')}`)}
      label = ${toml(label)}
      admit = ${toml(admit)}`;
  const admin = `127.0.0.1:${await freePort()}`;
  const { gateway, origin, operate } = await startGatekeeper('browser-provider', {
    admin,
    top: `outbound = { allow = ["127.0.0.1:${port}", "127.0.0.1:${nobody}"] }`,
    settings: [
      settings('works', { issuer, label: 'The works', admit: 'everyone' }),
      settings('office', { issuer, label: 'The office', admit: 'invited' }),
      '\n[auth.operators]\nstep_up_after = "1s"',
      settings('branch', { issuer: `http://127.0.0.1:${nobody}`, label: 'A branch that has moved', admit: 'everyone' }),
    ].join(''),
  });
  const callbacks = ['works', 'office'].map((name) => `${origin}/sign-in/${name}/callback`);
  callbacks.push(`http://${admin}/sign-in/works/callback`);
  const provider = start('browser-openid', [process.execPath, suiteFile('provider.mjs'), String(port), ...callbacks]);
  await until('the provider listens', async () => {
    provider.assertRunning();
    return (await fetch(`${issuer}/.well-known/openid-configuration`)).ok;
  });
  for (const view of VIEWS) await seeProvider(report, { origin, issuer, view });
  const client = await newClient(origin, application.url);
  const visitor = await Visitor.arrive({});
  const { page } = visitor;
  const subject = async (begun) => {
    const left = page.waitForRequest((sent) => sent.url().startsWith(client.redirect));
    await page.locator('form[action$="/identity"]:has(input[value=person]) button').click();
    await page.locator('form[action$="/finish"] button').click();
    const tokens = await begun.redeem(new URL((await left).url()).searchParams.get('code'));
    assert.equal(tokens.status, 200, JSON.stringify(tokens));
    return JSON.parse(Buffer.from(tokens.access_token.split('.')[1], 'base64url')).sub;
  };
  let first;
  await report.check('a person signs in through another provider, and consents', async () => {
    const begun = request(origin, client);
    await page.goto(begun.url);
    await page.locator('a[href*="/sign-in"]').first().click();
    await page.getByText('The works').click();
    await page.waitForURL(/interaction/);
    await agree(page, issuer, 'zoe');
    await page.waitForURL(at('/oauth2/consent/'));
    assert.match(await page.locator('main').innerText(), /zoe/);
    first = await subject(begun);
    assert.match(first, /^user:/);
  }, { within: CHECK_MS });
  await report.check('the second time they are the same person', async () => {
    await page.goto(`${origin}/account`);
    await page.locator('form[action$="/sign-out"] button').click();
    await page.waitForLoadState();
    const begun = request(origin, client);
    await page.goto(begun.url);
    await page.locator('a[href*="/sign-in"]').first().click();
    await page.getByText('The works').click();
    await page.waitForURL(at('/oauth2/consent/'));
    assert.equal(await subject(begun), first);
  }, { within: CHECK_MS });
  await report.check('an answer that nobody asked for signs in nobody', async () => {
    const stranger = await Visitor.arrive({});
    for (const query of ['code=x&state=y', 'error=access_denied&state=y', '', `code=x&iss=${encodeURIComponent(issuer)}`]) {
      const answer = await stranger.page.goto(`${origin}/sign-in/works/callback?${query}`);
      assert.ok(answer.status() >= 400 && answer.status() < 500, `${query}: ${answer.status()}`);
      assert.equal((await stranger.context.cookies(origin)).filter(({ name }) => /session/.test(name)).length, 0);
    }
    await stranger.leave();
  });
  await report.check('an answer for another browser signs in nobody', async () => {
    const [one, other] = [await Visitor.arrive({}), await Visitor.arrive({})];
    // Step by step, up to the address that leads back to the gateway.
    const asked = one.context.request;
    let answer = `${origin}/sign-in/works`;
    let form;
    for (let step = 0; step < 12 && !answer.startsWith(`${origin}/sign-in/works/callback`); step += 1) {
      const got = form === undefined
        ? await asked.get(answer, { maxRedirects: 0 }) : await asked.post(answer, { form, maxRedirects: 0 });
      form = undefined;
      const { location } = got.headers();
      if (location !== undefined) answer = new URL(location, answer).href;
      else {
        const text = await got.text();
        answer = new URL(/<form[^>]* action="([^"]+)"/.exec(text)[1], answer).href;
        form = text.includes('name="login"') ? { prompt: 'login', login: 'mallory', password: 'x' } : { prompt: 'consent' };
      }
    }
    assert.match(answer, /callback\?.*code=/);
    const got = await other.page.goto(answer);
    assert.ok(got.status() >= 400, String(got.status()));
    await other.page.goto(`${origin}/account`);
    assert.equal(await other.page.locator('form[action$="/sign-out"]').count(), 0);
    await one.leave();
    await other.leave();
  }, { within: CHECK_MS });
  await report.check('an operator signs in through the provider at the admin listener, and once more there', async () => {
    const operator = await Visitor.arrive({});
    const { page: theirs } = operator;
    const go = async (from, link) => {
      await theirs.goto(`http://${admin}${from}`);
      await theirs.getByText(link).click();
    };
    await go('/sign-in', 'The works');
    await theirs.waitForURL(/interaction/);
    await agree(theirs, issuer, 'zoe');
    await theirs.waitForURL(at('/sign-in/works/callback'));
    assert.match(await theirs.locator('main').innerText(), /does not look after this gateway/);
    const { users } = (await operate('GET', '/api/v1/users')).body;
    const { id } = users.find(({ name }) => name === 'zoe of the provider');
    const { status, body } = await operate('PATCH', `/api/v1/users/${id}`, { role: 'operator' });
    assert.equal(status, 200, JSON.stringify(body));
    await go('/sign-in', 'The works');
    await theirs.waitForURL(`http://${admin}/`);
    assert.match(await theirs.locator('header').first().innerText(), /zoe of the provider/);
    // As long as a sign-in is new, nobody is asked once more.
    await new Promise((done) => { setTimeout(done, 1_500); });
    await go('/sign-in/again', 'Sign in again with The works');
    await theirs.waitForURL(/interaction/);
    await agree(theirs, issuer, 'zoe');
    await theirs.waitForURL(`http://${admin}/`);
    await operator.leave();
  }, { within: CHECK_MS });
  await report.check('a provider that is gone is a fault, and says so', async () => {
    await provider.stop();
    const other = await Visitor.arrive({});
    // Its documents may still be known: then it is the browser that finds nobody.
    const answer = await other.page.goto(`${origin}/sign-in/works`).catch((error) => error);
    if (answer instanceof Error) assert.match(answer.message, /ERR_CONNECTION_REFUSED/);
    else assert.equal(answer.status(), 503);
    await other.leave();
  });
  const users = (await operate('GET', '/api/v1/users')).body.users;
  await report.check('there is one account for each person', () => {
    assert.deepEqual(users.map(({ name }) => name).sort(), [PERSON.login, 'zoe of the provider']);
  });
  await visitor.leave();
  await gateway.stop();
}

/** Is somebody at the provider, and has no objection. */
async function agree(page, issuer, name) {
  await page.locator('input[name=login]').fill(name);
  await page.locator('input[name=password]').fill('anything');
  await page.locator('button[type=submit]').click();
  await page.waitForLoadState();
  if (page.url().startsWith(issuer)) await page.locator('button[type=submit]').click();
}

/** Goes through the pages for whoever comes from a provider. */
async function seeProvider(report, { origin, issuer, view }) {
  // Whoever goes to a provider leaves our pages.
  const walk = await Walk.begin(report, view);
  const { page } = walk;
  await walk.seen('sign-in-providers', () => page.goto(`${origin}/sign-in`), /the office[^]*the works/i);
  await walk.seen('provider-refused', async () => {
    await page.getByText('The works').click();
    await page.waitForURL(/interaction/);
    await page.getByText('Cancel').click();
    await page.waitForURL(at('/sign-in/works/callback'));
  }, /did not let you in/i);
  await walk.seen('provider-stranger', async () => {
    await page.goto(`${origin}/sign-in/office`);
    await page.waitForURL(/interaction/);
    await agree(page, issuer, 'mallory');
    await page.waitForURL(at('/sign-in/office/callback'));
  }, /no account for you/i);
  await walk.seen('provider-over', () => page.goto(`${origin}/sign-in/works/callback?code=x&state=y`), /sign-in is over/i);
  await walk.seen('provider-failed', async () => {
    assert.equal((await page.goto(`${origin}/sign-in/branch`)).status(), 503);
  }, /did not do its part/i);
  await walk.end();
}
