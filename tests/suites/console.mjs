// The console in Chromium: every page that its tables have, as an owner sees it on a desk and on a phone, light and dark, by
// the rules for all pages (see browser-judge.mjs); what its forms lead to; all of it without scripts; what a viewer is not
// offered; and what scripts add. What each form does is tried by the tests in tests/it/console.
//
//   node console.mjs                       the suite
//   node console.mjs --screenshots DIR     writes the pictures as well that the documentation shows (docs/screenshots/console)

import assert from 'node:assert/strict';

import { VIEWS, Walk, beginPictures, checkPictures } from './browser-judge.mjs';
import { checkDoors } from './console-doors.mjs';
import { results } from './console-forms.mjs';
import { leadsElsewhere, readRows, rowOf } from './console-rows.mjs';
import { arrive, beginScene } from './console-scene.mjs';
import { suite, until } from './lib.mjs';
import { closeChromium } from './visitor.mjs';

/** How it is looked at, and at how many pages of one kind: the second one tells whether the first was a lucky one. */
const OF_A_KIND = { desktop: 2, 'phone-dark': 1 };
const LOOKS = VIEWS.filter(({ name }) => OF_A_KIND[name] !== undefined);
/** What leads on at once whoever is signed in. */
const DOORS = ['/setup', '/sign-in', '/sign-in/again', '/sign-in/again/form'];
/** Longest time for all pages, without judging them and with that. */
const [WALK_MS, LOOK_MS] = [300_000, 600_000];

const rows = readRows();

await suite('console', async (report) => {
  const scene = await beginScene();
  beginPictures('docs/screenshots/console');
  const opened = await checkPages(report, scene);
  await checkWithoutScripts(report, scene, opened);
  await checkViewer(report, scene.origin, opened);
  await checkScripts(report, scene);
  const behindDoors = await checkDoors(report, LOOKS);
  await report.check('no page of the console was left out', () => checkRows([...opened.values(), ...behindDoors], () => true));
  await checkPictures(report);
  await report.check('the gateway is still there', () => scene.gateway.assertRunning());
  await closeChromium();
  await scene.gateway.stop();
});

/** The path of an address of ours. */
function pathOf(address) {
  return address.split('?')[0];
}

/** Fails where a page was not opened that a table has; those before the doors are on no way of somebody who is in. */
function checkRows(addresses, isMeant = (path) => !DOORS.includes(path)) {
  const seen = new Set([...addresses].map((address) => rowOf(rows, pathOf(address))?.path));
  assert.deepEqual(rows.map(({ path }) => path).filter((path) => isMeant(path) && !seen.has(path)), []);
}

/** Where a walk begins: pages that have more to show than others of their kind, and those that no link leads to. By their names. */
function beginnings({ client, confidential, connection, denied, module, people, principal, waiting }) {
  return new Map(Object.entries({
    overview: '/', 'overview-of-a-day': '/?span=day', upstreams: '/upstreams', keys: '/keys', people: '/people', clients: '/clients',
    grants: '/grants', connections: '/connections', approvals: '/approvals', policies: '/policies', decisions: '/decisions',
    audit: '/audit', settings: '/settings',
    'decisions-denied': '/decisions?verdict=deny', 'decision-denied': `/decisions/${denied}`, 'decisions-no-id': '/decisions?id=nothing',
    'approvals-all': '/approvals?state=all', approval: `/approvals/${waiting}`,
    connection: `/connections/${connection}`, flows: '/connections/flows',
    key: '/keys/ci', 'key-form': '/keys/new', 'keys-access': '/keys/access', upstream: '/upstreams/wiki',
    'upstream-forget': '/upstreams/forget?upstream=gone',
    person: `/people/${people.viewer.id}`, 'person-signed-in': `/people/${people.owner.id}`, client: `/clients/${confidential}`,
    'grants-of-a-client': `/grants?client=${encodeURIComponent(client)}`,
    'grants-of-somebody': `/grants?principal=${encodeURIComponent(principal)}`, 'grants-of-a-kind': '/grants?kind=key',
    'policy-stored': '/policies/bindings/limits', 'policy-form': '/policies/bindings/limits/edit',
    'policy-json': '/policies/bindings/limits/edit?as=json', 'policy-new': '/policies/bindings/new?module=builtin:allow-tools',
    module: `/policies/modules/${module}`, generations: '/policies/generations?from=1&to=2',
    'try-again': `/policies/try?decision=${denied}`, 'upstream-json': '/upstreams/new?as=json', 'audit-of-keys': '/audit?event=key',
  }));
}

/** Paths of this gateway that a page leads to: those that show something. */
async function linksOf(page, origin) {
  const links = await page.locator('a[href]').evaluateAll((all) => all.map(({ href }) => href));
  const ours = links.map((link) => new URL(link)).filter((url) => url.origin === origin);
  return [...new Set(ours.map(({ pathname }) => pathname))];
}

/** A name for a page that only links lead to: what stands for a thing is "one". */
function nameOf(pattern, before) {
  const words = pattern.split('/').filter(Boolean).map((word) => (word.startsWith('{') ? 'one' : word));
  return `at-${words.join('-')}${before === 0 ? '' : '-again'}`;
}

/** Looks at what a walk begins with, and follows all links from there: some of each kind. The addresses, by their names. */
async function walkThrough(scene, page, ofAKind, look) {
  const opened = beginnings(scene);
  const paths = [];
  const kinds = new Map();
  const visit = async (name, address, row) => {
    kinds.set(row.path, (kinds.get(row.path) ?? 0) + 1);
    await look(name, address, row);
    for (const link of await linksOf(page, scene.origin)) if (!paths.includes(link)) paths.push(link);
  };
  for (const [name, address] of [...opened]) await visit(name, address, rowOf(rows, pathOf(address)));
  const begun = new Set([...opened.values()]);
  for (const path of paths) {
    const row = rowOf(rows, path);
    if (row === undefined) assert.ok(leadsElsewhere(path), `a link leads to ${path}, which no table has`);
    const before = kinds.get(row?.path) ?? 0;
    if (row === undefined || begun.has(path) || before >= (row.asks ? 1 : ofAKind)) continue;
    const name = nameOf(row.path, before);
    opened.set(name, path);
    await visit(name, path, row);
  }
  return opened;
}

/** Opens a page that has to be there. */
async function open(page, origin, address) {
  const answer = await page.goto(`${origin}${address}`);
  assert.equal(answer.status(), 200, address);
}

/** Says of a page that only asks whether something is to be done whether it is the first of them. */
function firstOfQuestions() {
  let seen = 0;
  return async (page) => {
    const form = 'main .card.narrow form:has(button.danger)';
    const questions = page.locator(`${form}:not(:has(input:not([type=hidden]), select, textarea))`);
    return await questions.count() === 1 && (seen += 1) > 1;
  };
}

async function checkPages(report, scene) {
  let opened = new Map();
  for (const view of LOOKS) {
    const walk = new Walk(report, view, await arrive(scene.origin, 'owner', view));
    const { page } = walk;
    const brief = firstOfQuestions();
    await report.check(`${view.name}: all links lead somewhere`, async () => {
      const found = await walkThrough(scene, page, OF_A_KIND[view.name], async (name, address) => {
        await walk.seen(name, () => open(page, scene.origin, address), /./, { scripts: 1, brief });
      });
      opened = new Map([...found, ...opened]);
      checkRows(found.values());
    }, { within: LOOK_MS });
    for (const [index, [name, go, said]] of results(scene, view.name).entries()) {
      await walk.seen(name, () => go(page), said, { scripts: 1 });
      // So that there are calls of more than one minute.
      if (index % 5 === 0) await scene.callSome();
    }
    await walk.seen('overview-after-calls', () => open(page, scene.origin, '/'), /traffic/i, { scripts: 1 });
    await walk.end();
  }
  return opened;
}

async function checkWithoutScripts(report, scene, opened) {
  const visitor = await arrive(scene.origin, 'owner', { scripts: false });
  const { page } = visitor;
  await report.check('without scripts the same pages are there, and lead to each other', async () => {
    const again = await walkThrough(scene, page, 1, async (_, address) => {
      await open(page, scene.origin, address);
      assert.equal(await page.locator('h1').count(), 1, address);
    });
    assert.deepEqual([...again.keys()].filter((name) => !opened.has(name)), []);
    checkRows(again.values());
  }, { within: WALK_MS });
  await report.check('without scripts forms lead to the same', async () => {
    for (const [name, go, said] of results(scene, 'by-hand')) {
      await go(page);
      assert.match(await page.locator('main').innerText(), said, name);
    }
    visitor.assertUntroubled();
    await visitor.leave();
  }, { within: WALK_MS });
  for (const scripts of [true, false]) {
    await report.check(`${scripts ? 'with' : 'without'} scripts an operator makes a key, looks at it and deletes it`, async () => {
      const visitor = await arrive(scene.origin, 'operator', { scripts });
      const { page } = visitor;
      const name = scripts ? 'by-script' : 'by-hand';
      await page.goto(`${scene.origin}/keys/new`);
      await page.locator('input[name=name]').fill(name);
      await page.locator('form[action="/keys/new"] button[type=submit]').last().click();
      assert.match(await page.locator('main').innerText(), /pk_[A-Za-z0-9_-]{40,}/);
      await page.goto(`${scene.origin}/keys/${name}`);
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
async function checkViewer(report, origin, opened) {
  await report.check('a viewer is offered no form but for looking, for their own account and for signing out', async () => {
    const visitor = await arrive(origin, 'viewer');
    // A token of somebody else is not there for them.
    for (const path of [...opened.values()].filter((address) => !address.startsWith('/me/tokens/'))) {
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
async function checkScripts(report, { origin, call }) {
  await report.check('decisions come while one looks', async () => {
    const visitor = await arrive(origin, 'viewer');
    const { page } = visitor;
    await page.goto(`${origin}/decisions`);
    const rows = page.locator('main tbody tr');
    const first = await rows.first().innerText();
    await until('a new decision stands on top', async () => {
      await call('tracker__echo');
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
