// The pages before those that are for somebody: making the first owner, signing in, and showing once more who one is; and what
// those see who may not go further.

import assert from 'node:assert/strict';

import { Walk, at } from './browser-judge.mjs';
import { addPerson, startGatekeeper } from './gatekeeper.mjs';
import { freePort } from './lib.mjs';
import { arrive } from './console-scene.mjs';

const PASSWORD = 'correct horse battery staple';
/** How old a sign-in may be here, in milliseconds. */
const FRESH_MS = 3000;

/** Goes through them in each view. The addresses that were opened. */
export async function checkDoors(report, views) {
  const admin = `127.0.0.1:${await freePort()}`;
  const origin = `http://${admin}`;
  const { gateway, operate } = await startGatekeeper('console-doors', {
    admin, settings: `[auth.operators]\nstep_up_after = "${FRESH_MS / 1000}s"\n`,
  });
  const opened = new Set();
  for (const view of views) await seeDoors(await Walk.begin(report, view, origin), origin, opened);
  for (const role of ['viewer', 'owner']) await addPerson(operate, { login: role, password: PASSWORD, role });
  for (const view of views) {
    await seeRefused(new Walk(report, view, await arrive(origin, 'viewer', view)), origin);
    await seeAgain(new Walk(report, view, await arrive(origin, 'owner', view)), origin, opened);
  }
  await gateway.stop();
  return [...opened];
}

async function seeDoors(walk, origin, opened) {
  const { page, visitor } = walk;
  const open = async (path) => {
    assert.equal((await page.goto(`${origin}${path}`)).status(), 200, path);
    opened.add(new URL(page.url()).pathname);
  };
  await walk.seen('setup', () => open('/setup'), /first owner/i, { scripts: 1 });
  await walk.seen('setup-refused', async () => {
    for (const [name, value] of Object.entries({ link: 'not the link', login: 'ann', password: PASSWORD })) {
      await page.locator(`input[name=${name}]`).fill(value);
    }
    await page.locator('form[action$="/setup"] button').click();
  }, /did not work/i, { scripts: 1 });
  await walk.seen('sign-in', () => open('/sign-in'), /sign in/i);
  await walk.seen('sign-in-refused', () => visitor.signIn('nobody', 'not a password'), /not right/i);
  await walk.end();
}

async function seeRefused(walk, origin) {
  const { page } = walk;
  await walk.seen('not-allowed', async () => {
    assert.equal((await page.goto(`${origin}/keys/new`)).status(), 403);
  }, /not for your account/i, { scripts: 1 });
  await walk.seen('not-found', async () => {
    assert.equal((await page.goto(`${origin}/keys/nobody`)).status(), 404);
  }, /not found|no such/i, { scripts: 1 });
  await walk.end();
}

async function seeAgain(walk, origin, opened) {
  const { page } = walk;
  await walk.seen('again', async () => {
    await page.waitForTimeout(FRESH_MS + 200);
    await page.goto(`${origin}/keys/new`);
    await page.waitForURL(at('/sign-in/again'));
    opened.add(new URL(page.url()).pathname);
  }, /once more/i, { scripts: 1 });
  await walk.seen('again-refused', async () => {
    await page.locator('input[name=password]').fill('not the password');
    await page.locator('form[action$="/sign-in/again"] button').first().click();
  }, /not right|did not/i, { scripts: 1 });
  const pass = async () => {
    await page.locator('input[name=password]').fill(PASSWORD);
    await page.locator('form[action$="/sign-in/again"] button').first().click();
  };
  await walk.seen('form-kept', async () => {
    await pass();
    await page.waitForURL(at('/keys/new'));
    await page.locator('input[name=name]').fill('kept');
    await page.waitForTimeout(FRESH_MS + 200);
    await page.locator('form[action="/keys/new"] button[type=submit]').last().click();
    await page.waitForURL(at('/sign-in/again'));
    await pass();
    await page.waitForURL(at('/sign-in/again/form'));
    opened.add(new URL(page.url()).pathname);
  }, /kept here[^]*send it/i, { scripts: 1 });
  await walk.end();
}
