// The walks through the pages: of a gateway as it is delivered, of one whose policies have something to say, and of one that
// cannot do what it is asked for.

import assert from 'node:assert/strict';

import { VIEWS, Walk, at } from './browser-judge.mjs';
import {
  PERSON, addPerson, anywhere, fillDisk, newClient, register, request, secretFile, startGatekeeper,
} from './gatekeeper.mjs';
import { toml } from './lib.mjs';
import { callback } from './visitor.mjs';

const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code';
/** Where the answers of an application go that is no program on somebody's machine. */
const ELSEWHERE = 'https://notes.example/callback';
/** Whose account is shown, in each view: what one person does in one is no part of the next. */
const OWNERS = ['Ben', 'Kim', 'Lee', 'Sam'];

// ---- what most people see -------------------------------------------------------------------------------------

/** Goes through the pages of a gateway without policies. */
export async function checkPages(report, { origin, application, operate }) {
  const client = await newClient(origin, application.url, { client_name: 'Claude Code' });
  for (const [which, view] of VIEWS.entries()) {
    const owner = OWNERS[which];
    const { email } = await addPerson(operate, { login: owner.toLowerCase(), password: PERSON.password, name: owner });
    assert.equal(email, null);
    const walk = await Walk.begin(report, view, origin);
    await seeConsent(walk, { origin, client });
    await seeAccount(walk, { origin, owner: owner.toLowerCase() });
    await seeDevices(walk, { origin });
    await walk.end();
  }
}

async function seeConsent(walk, { origin, client }) {
  const { page, visitor } = walk;
  const begin = (others) => request(origin, { ...client, ...others }).url;
  await walk.seen('connect', () => page.goto(`${origin}/mcp`), /mcp/i);
  await walk.seen('sign-in', () => page.goto(`${origin}/sign-in`), /sign in/i);
  await walk.seen('sign-in-refused', () => visitor.signIn('ann', 'not her password'), /not right/i);
  await walk.seen('form-too-old', async () => {
    await visitor.context.clearCookies();
    await visitor.signIn(PERSON.login, PERSON.password);
  }, /this form does not count/i);
  await walk.seen('not-found', () => page.goto(`${origin}/sign-in/nobody`), /not found/i);
  await walk.seen('identity', () => page.goto(begin()), /Claude Code/);
  await walk.seen('identity-wrong-key', async () => {
    const form = page.locator('form[action$="/identity"]:has(input[name=key])');
    await form.locator('input[name=key]').fill(`pk_${'x'.repeat(43)}`);
    await form.locator('button').click();
  }, /this key opens nothing/i);
  await walk.seen('identity-signed-in', async () => {
    await page.goto(begin());
    await page.locator('a[href*="/sign-in"]').first().click();
    await visitor.signIn(PERSON.login, PERSON.password);
    await page.locator('form[action$="/identity"]').first().waitFor();
  }, /ann/);
  await walk.seen('sign-in-again', () => page.getByText('Sign in as somebody else').click(), /once more/i);
  await page.goBack();
  await walk.seen('services', () => visitor.choose(PERSON), /calendar[^]*tracker/);
  await walk.seen('another-browser', async () => {
    const address = page.url();
    await visitor.context.clearCookies();
    await page.goto(address);
  }, /another browser/i);
  await walk.seen('unknown-address', () => page.goto(begin({ redirect: 'https://evil.example/callback' })), /not registered/i);
  await walk.seen('unknown-application', () => page.goto(begin({ id: 'nobody' })), /not known/i);
  await page.goto(begin());
  await walk.seen('services-of-a-guest', () => visitor.choose('guest'), /guest/i);
}

async function seeAccount(walk, { origin, owner }) {
  const { page, visitor } = walk;
  await walk.seen('account', async () => {
    const back = await callback();
    const mine = await newClient(origin, back.url, { client_name: 'Claude Code' });
    const begun = request(origin, mine);
    const sent = new URL(await visitor.consent(begun.url, { ...PERSON, login: owner }));
    assert.equal((await begun.redeem(sent.searchParams.get('code'))).status, 200);
    await page.goto(`${origin}/account`);
    back.close();
  }, /browsers where/i);
  await visitor.context.route(`${ELSEWHERE}*`, (route) => route.fulfill({ body: 'You can close this page.' }));
  await walk.seen('services-to-remember', async () => {
    await page.goto(request(origin, await newClient(origin, ELSEWHERE, { client_name: 'Notes' })).url);
    await visitor.choose({ ...PERSON, login: owner });
  }, /do not ask me again/i);
  await walk.seen('account-with-consents', async () => {
    await page.locator('input[name=remember]').check();
    await visitor.press('finish');
    await page.waitForURL(`${ELSEWHERE}*`);
    await page.goto(`${origin}/account`);
  }, /what you are not asked again[^]*notes\.example/i);
  await walk.seen('account-done', () => visitor.press('forget'), /done[^]*asked again/i);
  await walk.seen('account-password-refused', async () => {
    await page.locator('input[name=old]').fill('not their password');
    for (const name of ['new', 'repeated']) await page.locator(`input[name=${name}]`).fill('a few words of nobody');
    await page.locator('form[action$="/password"] button').click();
    await page.waitForURL(at('/account/password'));
  }, /another one/i);
}

/** A device that waits for a person: what it was told. */
async function device(origin, id) {
  const fields = { client_id: id, scope: 'mcp', resource: `${origin}/mcp` };
  const answer = await fetch(`${origin}/oauth2/device`, { method: 'POST', body: new URLSearchParams(fields) });
  return await answer.json();
}

/** Types the code of a device. */
async function type(page, origin, code) {
  await page.goto(`${origin}/device`);
  await page.locator('input[name=user_code]').fill(code);
  await page.locator('form[action$="/device"] button').first().click();
}

async function seeDevices(walk, { origin }) {
  const { page } = walk;
  const television = await register(origin, { client_name: 'A television', grant_types: [DEVICE_GRANT, 'refresh_token'] });
  assert.equal(television.status, 201, JSON.stringify(television));
  let begun;
  await walk.seen('device', () => page.goto(`${origin}/device`), /code/i);
  await walk.seen('device-unknown', () => type(page, origin, 'BCDF-GHJK'), /no device waits/i);
  await walk.seen('device-decide', async () => {
    begun = await device(origin, television.client_id);
    await type(page, origin, begun.user_code);
    await page.locator('button[value=refuse]').waitFor();
  }, /A television/);
  await walk.seen('device-over', async () => {
    const decision = page.url();
    const other = await walk.visitor.context.newPage();
    await other.goto(decision);
    await other.locator('button[value=refuse]').click();
    await other.waitForURL(/done=refused/);
    await other.close();
    await page.locator('button[value=approve]').click();
  }, /counts no more/i);
  for (const [name, decision, wanted] of [
    ['device-approved', 'approve', /has access now/i], ['device-refused', 'refuse', /was refused/i],
  ]) {
    await walk.seen(name, async () => {
      await type(page, origin, (await device(origin, television.client_id)).user_code);
      await page.locator(`button[value=${decision}]`).click();
      await page.waitForURL(/done=/);
    }, wanted);
  }
}

// ---- what policies say ----------------------------------------------------------------------------------------

const OTHER_KEY = 'pk_suites-with-people-that-opens-nothing-000000000';

/** Goes through the pages of a gateway whose policies refuse, narrow, and want more. */
export async function checkRuled(report, { application }) {
  const { gateway, origin, operate } = await startGatekeeper('browser-ruled', {
    upstreams: ['calendar', 'tracker'],
    settings: `
      [auth.scopes]
      mcp = "See and use the tools, prompts and resources that you may use"
      files = "Read your files"
      [auth.grants]
      device = true
      [auth.clients]
      registrations_per_minute = 10000
      ${['wiki', 'payroll', ...VIEWS.map(({ name }) => `reports-${name}`)].map((id) => `
      [auth.clients.known.${id}]
      name = ${toml({ w: 'Wiki', p: 'Payroll', r: 'Reports' }[id[0]])}
      redirect_uris = [${toml(application.url)}]`).join('')}
      [auth.clients.known.printer]
      name = "The printer on the second floor"
      grant_types = [${toml(DEVICE_GRANT)}]
      [keys.nothing]
      secret = ${toml(`file:${secretFile('nothing', OTHER_KEY)}`)}
      [[policies]]
      name = "consent"
      module = "builtin:consent-rules"
      [[policies.config.grants]]
      clients = ["wiki", "printer"]
      action = "deny"
      message = "The wiki and the printer are not to be connected before the move is over."
      [[policies.config.grants]]
      clients = ["reports-*"]
      action = "approve"
      message = "Reports leave the house: the data protection officer looks at each application first."
      [[policies.config.grants]]
      verified = false
      action = "consent"
      scopes = ["mcp"]
      message = "It gets no files, since nobody here has looked at it yet."
      [[policies]]
      name = "proof"
      module = "builtin:cel"
      [[policies.config.rules]]
      hook = "grant"
      if = "request.client.id == 'payroll'"
      then = "step-up"
      max_age_s = 1
      message = "Whoever lets an application see salaries has signed in a moment ago."
    `,
  });
  const stranger = await newClient(origin, application.url, { client_name: 'Claude Code' });
  for (const view of VIEWS) {
    const walk = await Walk.begin(report, view, origin);
    const { page, visitor } = walk;
    /** Comes with a request and chooses an identity, whatever that leads to. */
    const come = async (id, who, others = {}) => {
      await page.goto(request(origin, { id, redirect: application.url, ...others }).url);
      await visitor.pick(who);
      await page.waitForURL(at('/oauth2/consent/'));
    };
    await walk.seen('stopped', () => come('wiki', PERSON), /not allowed[^]*the move/i);
    await walk.seen('stopped-until-again', async () => {
      // Until the sign-in of before is older than the rule allows.
      await page.waitForTimeout(2500);
      await come('payroll', PERSON);
    }, /once more[^]*a moment ago/i);
    await walk.seen('stopped-no-person', () => come('payroll', 'guest'), /only a person/i);
    await walk.seen('approval-wanted', () => come(`reports-${view.name}`, PERSON), /approve this first[^]*reports-/i);
    await walk.seen('approval-refused', async () => {
      const { body } = await operate('GET', '/api/v1/approvals?state=pending');
      assert.equal(body.approvals.length, 1, JSON.stringify(body));
      const decision = { decision: 'deny', note: 'Not before the audit is over.' };
      const { status } = await operate('POST', `/api/v1/approvals/${body.approvals[0].id}/decision`, decision);
      assert.equal(status, 200);
      await page.getByRole('link', { name: 'Look again' }).click();
    }, /refused this[^]*the audit/i);
    await walk.seen('services-narrowed', async () => {
      await come(stranger.id, PERSON, { scope: 'mcp files' });
      await page.locator('form[action$="/finish"]').waitFor();
    }, /asks for access[^]*warning[^]*less than it asks for/i);
    await walk.seen('services-changed', async () => {
      await page.locator('input[name=shown]').evaluate((input) => { input.value = '0'.repeat(input.value.length); });
      await visitor.press('finish');
    }, /has changed meanwhile/i);
    await walk.seen('services-none', async () => {
      await come(stranger.id, { key: OTHER_KEY });
      await page.locator('form[action$="/finish"]').waitFor();
    }, /none/i);
    await walk.seen('device-not-allowed', async () => {
      await type(page, origin, (await device(origin, 'printer')).user_code);
    }, /may not have access/i);
    await walk.end();
  }
  await gateway.stop();
}

// ---- what cannot be done --------------------------------------------------------------------------------------

const PATIENCE_SECONDS = 2;

/** Goes through the pages for whoever is too slow, too fast, or comes when the disk is full. */
export async function checkTroubled(report, { application }) {
  let from = anywhere;
  const { gateway, origin } = await startGatekeeper('browser-troubled', {
    onDisk: true,
    from: () => from(),
    settings: `[auth.tokens]\nconsent_life = "${PATIENCE_SECONDS}s"\n`,
  });
  const client = await newClient(origin, application.url, { client_name: 'Claude Code' });
  const begin = () => request(origin, client).url;
  for (const [which, view] of VIEWS.entries()) {
    const walk = await Walk.begin(report, view, origin);
    const { page, visitor } = walk;
    await walk.seen('request-too-old', async () => {
      await page.goto(begin());
      await page.waitForTimeout((PATIENCE_SECONDS + 1) * 1000);
      await page.reload();
    // Once what is over is forgotten, nobody can tell the one from the other.
    }, /too old|took too long/i);
    await walk.seen('sign-in-too-often', async () => {
      from = () => `127.9.9.${which + 1}`;
      await page.goto(`${origin}/sign-in`);
      for (let tries = 0; tries < 30; tries += 1) {
        await visitor.signIn(`somebody-${which}`, 'not their password');
        await page.waitForLoadState();
        if (/too many tries/i.test(await page.locator('main').innerText())) break;
      }
    }, /too many tries/i);
    await walk.seen('too-often', async () => {
      for (let status = 0, tries = 0; status !== 429 && tries < 200; tries += 1) {
        ({ status } = await fetch(begin(), { redirect: 'manual' }));
      }
      assert.equal((await page.goto(begin())).status(), 429);
      from = anywhere;
    }, /too often/i);
    await walk.end();
  }
  await fillDisk(gateway);
  for (const view of VIEWS) {
    const walk = await Walk.begin(report, view, origin);
    await walk.seen('unavailable', async () => {
      await walk.page.goto(`${origin}/sign-in`);
      await walk.visitor.signIn(PERSON.login, PERSON.password);
    }, /not at the moment/i);
    await walk.end();
  }
  await gateway.stop();
}
