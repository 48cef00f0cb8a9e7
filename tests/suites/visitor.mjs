// A person in front of Chromium: Debian's, without a screen, driven by playwright-core. Beside it, OAuth clients' end of a
// sign-in: a port that waits for the browser to come back.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import http from 'node:http';

import { chromium } from 'playwright-core';

/** Debian's; another one by `CHROMIUM`. */
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** Longest wait for a page or an element. */
const PAGE_MS = 30_000;

let browser;

/** Chromium itself, once for a suite. It ends with the suite. */
async function running() {
  if (browser === undefined) {
    if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: apt-get install chromium`);
    browser = chromium.launch({
      executablePath: CHROMIUM,
      // Its sandbox does not run as root.
      chromiumSandbox: process.getuid() !== 0,
      args: ['--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--hide-scrollbars'],
      // A terminated suite ends it as well.
      handleSIGINT: true, handleSIGTERM: true, handleSIGHUP: true,
    });
  }
  return await browser;
}

export async function closeChromium() {
  if (browser !== undefined) await (await browser).close();
  browser = undefined;
}

/** A person with a browser profile of their own. */
export class Visitor {
  /** What happened that must not: dialogs, errors on the console, requests to elsewhere, violations of the pages' policy. */
  complaints = [];

  static async arrive({ width = 1280, height = 900, scheme = 'light', scripts = true, origin } = {}) {
    const visitor = new Visitor();
    visitor.origin = origin;
    visitor.context = await (await running()).newContext({
      viewport: { width, height }, colorScheme: scheme, javaScriptEnabled: scripts, reducedMotion: 'reduce', locale: 'en',
    });
    visitor.context.setDefaultTimeout(PAGE_MS);
    visitor.page = await visitor.context.newPage();
    visitor.#watch(visitor.page);
    visitor.context.on('page', (page) => visitor.#watch(page));
    return visitor;
  }

  #watch(page) {
    page.on('dialog', async (dialog) => {
      this.complaints.push(`a dialog: ${dialog.message()}`);
      await dialog.dismiss();
    });
    page.on('pageerror', (error) => this.complaints.push(`a script failed: ${error.message}`));
    page.on('console', (message) => {
      const text = message.text();
      // What a refused request looks like to the console is no complaint; a broken policy is.
      if (/content.security.policy|refused to|violat/i.test(text)) this.complaints.push(`console: ${text}`);
    });
    page.on('request', (request) => {
      const url = request.url();
      const isOurs = this.origin === undefined || url.startsWith(`${this.origin}/`) || url.startsWith('data:');
      if (!isOurs && !request.isNavigationRequest()) this.complaints.push(`a request to ${url}`);
    });
  }

  /** Fails if anything happened that must not. */
  assertUntroubled() {
    assert.deepEqual(this.complaints, []);
  }

  /** Signs in with the form of the page. */
  async signIn(login, password) {
    await this.page.locator('input[name=login]').fill(login);
    await this.page.locator('input[name=password]').fill(password);
    await this.page.locator('form[action*="/sign-in"] button[type=submit], form[action*="/sign-in"] button:not([type])').first().click();
  }

  /** Whether the page asks as whom to go on. */
  async isAsked() {
    return await this.page.locator('form[action$="/identity"]').count() > 0;
  }

  /** Chooses who to be, `{ login, password }`, `{ key }` or `'guest'`, and sees what that leads to. */
  async choose(who) {
    await this.pick(who);
    await this.page.locator('form[action$="/finish"]').waitFor();
  }

  /** Chooses who to be, whatever that leads to. */
  async pick(who) {
    const { page } = this;
    if (who.login !== undefined) {
      if (await this.#choice('person').count() === 0) {
        await page.locator('a[href*="/sign-in"]').first().click();
        await this.signIn(who.login, who.password);
      }
      await this.#choice('person').locator('button').click();
    } else if (who.key !== undefined) {
      await this.#choice('key').locator('input[name=key]').fill(who.key);
      await this.#choice('key').locator('button').click();
    } else {
      await this.#choice(who).locator('button').click();
    }
  }

  /** The form with which one goes on as this. */
  #choice(identity) {
    return this.page.locator(`form[action$="/identity"]:has(input[name=identity][value=${identity}])`);
  }

  async press(action) {
    await this.page.locator(`form[action$="/${action}"] button`).first().click();
  }

  /** Goes from the address that a client opens to the one that the client gets, which is returned. */
  async consent(url, who) {
    await this.page.goto(url);
    await this.choose(who);
    const before = this.page.url();
    // Clients' pages may be of any kind, or not be there at all: only where the browser is sent matters.
    const left = this.page.waitForRequest((request) => request.isNavigationRequest() && request.method() === 'GET'
      && !request.url().startsWith(new URL(before).origin));
    await this.press('finish');
    const sent = (await left).url();
    await this.page.waitForLoadState().catch(() => {});
    return sent;
  }

  async leave() {
    await this.context.close();
  }
}

/** Waits at a port of loopback for the browser to come back. `answer` resolves to the address that it was sent to. */
export async function callback(port = 0) {
  let arrived;
  const answer = new Promise((resolve) => { arrived = resolve; });
  const server = http.createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/plain', connection: 'close' }).end('You can close this page.');
    if (request.url.startsWith('/callback')) arrived(`http://127.0.0.1:${server.address().port}${request.url}`);
  });
  await new Promise((resolve, reject) => server.listen(port, '127.0.0.1', resolve).once('error', reject));
  return { url: `http://127.0.0.1:${server.address().port}/callback`, answer, close: () => server.close() };
}
