// The pages of the authorization server in Chromium: what people see, with a mouse or a keyboard alone, on a phone and on a
// desk, by day and by night; and what strangers' texts and pages can do to them, which is nothing.
//
//   node browser.mjs                       the suite
//   node browser.mjs --screenshots DIR     writes the pictures as well that the documentation shows (docs/screenshots)

import assert from 'node:assert/strict';

import { checkConnections } from './browser-connections.mjs';
import { at, beginPictures, checkPictures } from './browser-judge.mjs';
import { checkPages, checkRuled, checkTroubled } from './browser-pages.mjs';
import { checkProvider } from './browser-provider.mjs';
import { checkForeignPages, checkStrangers } from './browser-strangers.mjs';
import { EVERYBODY, KEY, PERSON, newClient, request, startGatekeeper } from './gatekeeper.mjs';
import { suite } from './lib.mjs';
import { Visitor, callback, closeChromium } from './visitor.mjs';

const CHECK_MS = 60_000;

/** Where applications of this suite wait. */
const application = await callback();

await suite('browser', async (report) => {
  const { gateway, origin, operate } = await startGatekeeper('browser', {
    upstreams: ['calendar', 'tracker'],
    settings: `
      [auth.scopes]
      mcp = "See and use the tools, prompts and resources that you may use"
      [auth.grants]
      device = true
      [auth.clients]
      registrations_per_minute = 10000
    `,
  });
  beginPictures('docs/screenshots');
  await checkPages(report, { origin, application, operate });
  await checkRuled(report, { application });
  await checkTroubled(report, { application });
  const client = await newClient(origin, application.url, { client_name: 'Claude Code' });
  await checkKeyboard(report, { origin, client });
  await checkWithoutScripts(report, { origin, client });
  await checkStrangers(report, { origin, client });
  await checkForeignPages(report, { origin, client });
  await checkGoingBack(report, { origin, client });
  await checkProvider(report, { application });
  await checkConnections(report, { application });
  await checkPictures(report);
  await closeChromium();
  await gateway.stop();
});

// ---- a keyboard alone -----------------------------------------------------------------------------------------
/** Goes to the element with Tab, and fails if there is no way, or if one cannot see where one is. */
async function tabTo(page, what, selector) {
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press('Tab');
    const { here, visible } = await page.evaluate((wanted) => {
      const element = document.activeElement;
      const style = getComputedStyle(element);
      const outline = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
      return { here: element.matches(wanted), visible: outline || style.boxShadow !== 'none' };
    }, selector);
    if (here) {
      assert.ok(visible, `one cannot see that ${what} has the focus`);
      return;
    }
  }
  assert.fail(`no way to ${what} with Tab`);
}

async function checkKeyboard(report, { origin, client }) {
  await report.check('with a keyboard alone one signs in, consents and looks after it', async () => {
    const visitor = await Visitor.arrive({ origin });
    const { page } = visitor;
    await page.goto(request(origin, client).url);
    await page.keyboard.press('Tab');
    assert.match(await page.evaluate(() => document.activeElement.textContent), /skip/i);
    await tabTo(page, 'the link to sign in', 'a[href*="/sign-in"]');
    await page.keyboard.press('Enter');
    await page.waitForURL(at('/sign-in'));
    await tabTo(page, 'the login', 'input[name=login]');
    await page.keyboard.type(PERSON.login);
    await tabTo(page, 'the password', 'input[name=password]');
    await page.keyboard.type(PERSON.password);
    await page.keyboard.press('Enter');
    await page.waitForURL(at('/oauth2/consent/'));
    await tabTo(page, 'the person', 'form[action$="/identity"]:has(input[value=person]) button');
    await page.keyboard.press('Space');
    await page.locator('form[action$="/finish"]').waitFor();
    const left = page.waitForRequest((sent) => sent.url().startsWith(client.redirect));
    await tabTo(page, 'the end', 'form[action$="/finish"] button');
    await page.keyboard.press('Enter');
    assert.match((await left).url(), /code=/);
    await page.waitForURL((url) => url.href.startsWith(client.redirect));
    await page.goto(`${origin}/account`);
    await tabTo(page, 'signing out', 'form[action$="/sign-out"] button');
    await page.keyboard.press('Enter');
    await page.waitForLoadState();
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: CHECK_MS });
}

// ---- without scripts ------------------------------------------------------------------------------------------
async function checkWithoutScripts(report, { origin, client }) {
  for (const [as, who] of Object.entries(EVERYBODY)) {
    await report.check(`without scripts one consents as ${as}`, async () => {
      const visitor = await Visitor.arrive({ origin, scripts: false });
      const begun = request(origin, client);
      const sent = new URL(await visitor.consent(begun.url, who));
      assert.equal(sent.searchParams.get('state'), begun.state);
      assert.equal(sent.searchParams.get('iss'), origin);
      const tokens = await begun.redeem(sent.searchParams.get('code'));
      assert.equal(tokens.status, 200, JSON.stringify(tokens));
      await visitor.leave();
    }, { within: CHECK_MS });
  }
  await report.check('one cancels, and the application is told', async () => {
    const visitor = await Visitor.arrive({ origin });
    await visitor.page.goto(request(origin, client).url);
    const left = visitor.page.waitForRequest((sent) => sent.url().startsWith(client.redirect));
    await visitor.press('cancel');
    assert.equal(new URL((await left).url()).searchParams.get('error'), 'access_denied');
    visitor.assertUntroubled();
    await visitor.leave();
  });
  await report.check('one goes back and chooses another identity', async () => {
    const visitor = await Visitor.arrive({ origin });
    await visitor.page.goto(request(origin, client).url);
    await visitor.choose('guest');
    await visitor.press('back');
    await visitor.choose({ key: KEY });
    assert.match(await visitor.page.locator('main').innerText(), /test/);
    await visitor.leave();
  });
}

// ---- going back -----------------------------------------------------------------------------------------------
async function checkGoingBack(report, { origin, client }) {
  await report.check('who goes back after the end gets no second code', async () => {
    const visitor = await Visitor.arrive({ origin });
    const { page } = visitor;
    const back = await callback();
    const mine = await newClient(origin, back.url, { client_name: 'Claude Code' });
    await visitor.consent(request(origin, mine).url, 'guest');
    await page.goBack();
    await page.waitForLoadState();
    const finish = page.locator('form[action$="/finish"] button');
    if (await finish.count() > 0) {
      await finish.click();
      await page.waitForLoadState();
      assert.ok(page.url().startsWith(origin), page.url());
    }
    assert.doesNotMatch(page.url(), /code=/);
    back.close();
    await visitor.leave();
  });
  await report.check('who signs out and goes back sees nothing of before', async () => {
    const visitor = await Visitor.arrive({ origin });
    const { page } = visitor;
    await page.goto(`${origin}/sign-in`);
    await visitor.signIn(PERSON.login, PERSON.password);
    await page.goto(`${origin}/account`);
    await page.locator('form[action$="/sign-out"] button').click();
    await page.waitForLoadState();
    await page.goBack();
    await page.waitForLoadState();
    assert.equal(await page.locator('form[action$="/sign-out"]').count(), 0);
    await visitor.leave();
  });
  await report.check('two tabs of one browser each get their own code', async () => {
    const visitor = await Visitor.arrive({ origin });
    const second = await visitor.context.newPage();
    const [one, two] = [request(origin, client), request(origin, client)];
    await visitor.page.goto(one.url);
    await second.goto(two.url);
    for (const [page, begun] of [[second, two], [visitor.page, one]]) {
      visitor.page = page;
      await page.reload();
      await visitor.choose('guest');
      const left = page.waitForRequest((sent) => sent.url().startsWith(client.redirect));
      await visitor.press('finish');
      const sent = new URL((await left).url());
      assert.equal(sent.searchParams.get('state'), begun.state);
      assert.equal((await begun.redeem(sent.searchParams.get('code'))).status, 200);
    }
    await visitor.leave();
  });
}
