// The console in Chromium: every page that its links lead to, as an owner sees it on a desk and on a phone, light and dark, by
// the rules for all pages (see browser-judge.mjs); all of them without scripts; what a viewer is not offered; and what scripts
// add. What each form does is tried by the tests in tests/it/console.
//
//   node console.mjs                       the suite
//   node console.mjs --screenshots DIR     writes a picture of every page as well (docs/screenshots/console)

import assert from 'node:assert/strict';

import { PICTURED, VIEWS, Walk, checkPictures, clearPictures } from './browser-judge.mjs';
import { KEY, addPerson, newClient, startGatekeeper } from './gatekeeper.mjs';
import { freePort, suite, toml, until } from './lib.mjs';
import { connectV1 } from './peers.mjs';
import { Visitor, closeChromium } from './visitor.mjs';

const PASSWORD = 'correct horse battery staple';
/** Pages of one kind that are looked at: the second one tells whether the first was a lucky one. */
const OF_A_KIND = 2;
/** The parts of the console: each has to be there. */
const PARTS = [
  '/', '/upstreams', '/keys', '/people', '/clients', '/grants', '/connections', '/approvals', '/policies', '/decisions',
  '/audit', '/settings',
];
/** Kinds of pages that are pictured besides. */
const PICTURED_TOO = ['/decisions/*', '/keys/access', '/keys/new', '/policies/try', '/upstreams/*/tools', '/upstreams/new'];
/** Pages that links lead to at the least: fewer means that links are missing. */
const FEWEST = 40;
const WALK_MS = 120_000;
/** Links that lead to a file, which a browser keeps. */
const FILES = ['/settings/store/backup'];
/** Names of things that are made here or by the file, which are words of paths as well. */
const NAMES = new Set(['ci', 'nightly', 'test', 'calendar', 'tracker', 'wiki', 'away', 'careful', 'who-may-what']);

await suite('console', async (report) => {
  const port = await freePort();
  const house = await startGatekeeper('console', {
    admin: `127.0.0.1:${port}`, upstreams: ['calendar', 'tracker'],
    settings: `
      [[policies]]
      name = "who-may-what"
      module = "builtin:allow-tools"
      [policies.config]
      otherwise = "allow"
      [[policies.config.rules]]
      tools = ["tracker/echo"]
      action = "deny"
      [[policies]]
      name = "careful"
      module = "builtin:confirm-destructive"
      mode = "shadow"
      [upstreams.away]
      transport = "streamable-http"
      url = ${toml(`http://127.0.0.1:${await freePort()}/mcp`)}
    `,
  });
  const origin = `http://127.0.0.1:${port}`;
  const call = await furnish(house);
  clearPictures();
  for (const role of ['viewer', 'operator', 'owner']) {
    await addPerson(house.operate, { login: role, name: role, password: PASSWORD, role });
  }
  const found = await checkPages(report, origin);
  await checkWithoutScripts(report, origin, found);
  await checkViewer(report, origin, found);
  await checkScripts(report, origin, call);
  await checkPictures(report, PICTURED.length * PARTS.length);
  await report.check('the gateway is still there', () => house.gateway.assertRunning());
  await closeChromium();
  await house.gateway.stop();
});

/** Makes some of most things, so that pages have something to show. Returns how a tool is called. */
async function furnish({ operate, origin, url, fixture }) {
  const made = async (target, body) => {
    const answer = await operate('POST', target, body);
    assert.ok([200, 201].includes(answer.status), `${target}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  };
  const soon = new Date(Date.now() + 3 * 24 * 3600 * 1000).toISOString().replace(/\.\d+Z$/, 'Z');
  await made('/api/v1/keys', { name: 'ci', allow: [{ upstream: 'calendar', tools: ['e*', 'a*'] }], expires: soon });
  await made('/api/v1/keys', { name: 'nightly', allow: [], groups: ['editors'], owner: 'ann' });
  await made('/api/v1/upstreams', { name: 'wiki', definition: { transport: 'streamable-http', url: fixture } });
  await made('/api/v1/clients', { client_name: 'Reports <b>', redirect_uris: ['https://reports.example/callback'] });
  await newClient(origin, 'http://127.0.0.1:8123/callback', { client_name: 'Claude Code' });
  const client = await connectV1(url, { authorization: `Bearer ${KEY}` });
  const names = (await client.tools()).map(({ name }) => name);
  const call = async (upstream) => {
    const name = names.find((one) => one.startsWith(upstream) && one.endsWith('echo'));
    return await client.call(name, { text: 'hello', message: 'hello' }).catch((error) => error);
  };
  for (const upstream of ['calendar', 'tracker', 'calendar', 'calendar']) await call(upstream);
  await until('the calls are recorded', async () => {
    const { body } = await operate('GET', '/api/v1/decisions?limit=10');
    return body.decisions.filter(({ operation }) => operation === 'tools/call').length >= 3;
  });
  return call;
}

/** Signs in as somebody, in a browser of this kind. */
async function arrive(origin, login, view = {}) {
  const visitor = await Visitor.arrive({ ...view, origin });
  await visitor.page.goto(`${origin}/sign-in`);
  await visitor.signIn(login, PASSWORD);
  await visitor.page.waitForURL(`${origin}/`);
  return visitor;
}

/** A page by what it is about: what stands for a thing is a star. */
function kindOf(pathname) {
  const words = pathname.split('/').map((word) => (/[0-9A-Z%:._]/.test(word) || NAMES.has(word) ? '*' : word));
  return words.join('/');
}

/** Paths of this gateway that a page leads to: those that show something, and that are pages. */
async function linksOf(page, origin) {
  const links = await page.locator('a[href]').evaluateAll((all) => all.map(({ href }) => href));
  const ours = links.map((link) => new URL(link)).filter((url) => url.origin === origin && !FILES.includes(url.pathname));
  return [...new Set(ours.map((url) => url.pathname))];
}

/** Follows all links from the overview, and looks at some of each kind. The paths. */
async function walkThrough(origin, page, look) {
  const seen = new Map();
  const paths = [...PARTS];
  for (const path of paths) {
    const kind = kindOf(path);
    const before = seen.get(kind) ?? [];
    if (before.includes(path) || before.length >= OF_A_KIND) continue;
    seen.set(kind, [...before, path]);
    await look(path, kind, before.length);
    for (const link of await linksOf(page, origin)) if (!paths.includes(link)) paths.push(link);
  }
  return [...seen.values()].flat();
}

/** Opens a page that has to be there. */
async function open(page, origin, path) {
  const answer = await page.goto(`${origin}${path}`);
  assert.equal(answer.status(), 200, path);
}

async function checkPages(report, origin) {
  let found = [];
  for (const view of VIEWS.filter(({ name }) => PICTURED.includes(name))) {
    const walk = new Walk(report, view, await arrive(origin, 'owner', view));
    const look = async (path, kind, before) => {
      const name = `${kind.split('/').filter(Boolean).join('-').replaceAll('*', 'one') || 'overview'}${before === 0 ? '' : '-again'}`;
      const pictured = before === 0 && [...PARTS, ...PICTURED_TOO].includes(kind);
      await walk.seen(name, () => open(walk.page, origin, path), /./, { scripts: 1, pictured });
    };
    found = await walkThrough(origin, walk.page, look);
    await report.check(`${view.name}: links lead everywhere`, () => {
      assert.ok(found.length >= FEWEST, `${found.length}: ${found.join(' ')}`);
      for (const part of PARTS) assert.ok(found.includes(part), part);
    });
    await walk.end();
  }
  return found;
}

async function checkWithoutScripts(report, origin, found) {
  await report.check('without scripts the same pages are there, and lead to each other', async () => {
    const visitor = await arrive(origin, 'owner', { scripts: false });
    const again = await walkThrough(origin, visitor.page, async (path) => {
      await open(visitor.page, origin, path);
      assert.equal(await visitor.page.locator('h1').count(), 1, path);
    });
    const kinds = new Set(again.map(kindOf));
    assert.deepEqual(found.filter((path) => !kinds.has(kindOf(path))), []);
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: WALK_MS });
  for (const scripts of [true, false]) {
    await report.check(`${scripts ? 'with' : 'without'} scripts an operator makes a key, looks at it and deletes it`, async () => {
      const visitor = await arrive(origin, 'operator', { scripts });
      const { page } = visitor;
      const name = scripts ? 'by-script' : 'by-hand';
      await page.goto(`${origin}/keys/new`);
      await page.locator('input[name=name]').fill(name);
      await page.locator('form[action="/keys/new"] button[type=submit]').last().click();
      assert.match(await page.locator('main').innerText(), /pk_[A-Za-z0-9_-]{40,}/);
      await page.goto(`${origin}/keys/${name}`);
      assert.doesNotMatch(await page.locator('main').innerText(), /pk_[A-Za-z0-9_-]{40,}/, 'a secret is told once');
      await page.locator(`a[href="/keys/${name}/remove"]`).click();
      await page.locator(`form[action="/keys/${name}/remove"] button`).click();
      await page.waitForURL((url) => url.pathname === '/keys');
      assert.match(await page.locator('[role=status]').first().innerText(), /done/i);
      assert.equal(await page.locator(`a[href="/keys/${name}"]`).count(), 0);
      visitor.assertUntroubled();
      await visitor.leave();
    });
  }
}

/** Who only looks is offered nothing that changes anything. */
async function checkViewer(report, origin, found) {
  await report.check('a viewer is offered no form but for looking, for their own account and for signing out', async () => {
    const visitor = await arrive(origin, 'viewer');
    for (const path of found) {
      const answer = await visitor.page.goto(`${origin}${path}`);
      assert.ok([200, 403].includes(answer.status()), `${path}: ${answer.status()}`);
      const forms = await visitor.page.locator('form').evaluateAll((all) => all.map((form) => [form.method, new URL(form.action).pathname]));
      const others = forms.filter(([method, action]) => method === 'post' && action !== '/sign-out' && !action.startsWith('/me'));
      assert.deepEqual(others, [], path);
    }
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: WALK_MS });
}

/** What scripts add. */
async function checkScripts(report, origin, call) {
  await report.check('decisions come while one looks', async () => {
    const visitor = await arrive(origin, 'viewer');
    const { page } = visitor;
    await page.goto(`${origin}/decisions`);
    const rows = page.locator('main tbody tr');
    const first = await rows.first().innerText();
    await until('a new decision stands on top', async () => {
      await call('tracker');
      await page.waitForTimeout(500);
      return (await rows.first().innerText()) !== first;
    });
    visitor.assertUntroubled();
    await visitor.leave();
  });
  await report.check('a list is narrowed while one types', async () => {
    const visitor = await arrive(origin, 'viewer');
    const { page } = visitor;
    await page.goto(`${origin}/upstreams`);
    const field = page.locator('input[data-narrows]').first();
    const list = page.locator(`#${await field.getAttribute('data-narrows')} > *`);
    const all = await list.count();
    await field.fill('wiki');
    const shown = await list.evaluateAll((items) => items.filter((item) => item.checkVisibility()).length);
    assert.ok(shown >= 1 && shown < all, `${shown} of ${all}`);
    visitor.assertUntroubled();
    await visitor.leave();
  });
}
