// What forms of the console lead to that has no address of its own: secrets that are told once, previews, trials, what was
// read, and forms that come back with what is wrong.

import assert from 'node:assert/strict';

import { PASTED } from './console-scene.mjs';

/** Opens a page, fills in fields of a form in it, and sends it with this button. */
async function send(page, address, action, values = {}, button = 'button[type=submit]') {
  assert.equal((await page.goto(address)).status(), 200, address);
  const form = page.locator(`form[action="${action}"]`).first();
  for (const [name, value] of Object.entries(values)) {
    const field = form.locator(`[name="${name}"]`);
    if (await field.evaluate(({ tagName }) => tagName) === 'SELECT') await field.selectOption(value);
    else await field.fill(value);
  }
  await form.locator(button).first().click();
}

/** What can be seen of it in a browser, each with a name, the way there, and what it has to say. `once` is different each time. */
export function results({ origin, fixture, connection, confidential, denied }, once) {
  const to = (path, values, { action = path, button } = {}) => (page) => send(page, `${origin}${path}`, action, values, button);
  const [nowhere, another] = ['http://127.0.0.1:9/mcp', 'a few words of nobody'];
  const [look, attempt, save] = ['look', 'try', 'save'].map((value) => ({ button: `button[value=${value}]` }));
  return [
    ['keys-made', to('/keys/new', { name: `made-${once}` }), /now or never[^]*pk_[\w-]{40}/i],
    ['keys-refused', to('/keys/new', { name: 'Not A Name' }), /not saved/i],
    ['keys-rotated', to('/keys/nightly/rotate', { overlap_hours: '2' }), /now or never[^]*pk_[\w-]{40}/i],
    ['keys-changed', to('/keys/nightly/change', { groups: 'editors writers' }), /done/i],
    ['clients-secret-made', to(`/clients/${confidential}/secret`), /now or never/i],
    ['clients-refused', to('/clients/new', { redirect_uris: 'not an address' }), /did not work[^]*redirect_uris/i],
    ['tokens-made', to('/me/tokens/new', { name: `made ${once}` }), /now or never[^]*pat_/i],
    ['password-refused', to('/me/password', { old: 'not the one', new: another, repeated: another }), /not/i],
    ['connections-link', to(`/connections/${connection}`, {}, { action: `/connections/${connection}/reauthorise` }), /mind whom/i],
    ['upstreams-link', to('/upstreams/mail', {}, { action: '/upstreams/mail/connect' }), /connect mail[^]*opens once/i],
    ['upstreams-tried', to('/upstreams/wiki', {}, { action: '/upstreams/wiki/try' }), /tried:/i],
    ['upstreams-failed', to('/upstreams/away', {}, { action: '/upstreams/away/try' }), /did not work/i],
    ['upstreams-new-tried', to('/upstreams/new', { name: `new-${once}`, url: fixture }, attempt), /tried:/i],
    ['upstreams-new-refused', to('/upstreams/new', { name: `new-${once}`, url: nowhere }, save), /did not work/i],
    ['import-preview', to('/upstreams/import', { servers: PASTED }), /files[^]*notes[^]*add those that are chosen/i],
    ['import-refused', async (page) => {
      await send(page, `${origin}/upstreams/import`, '/upstreams/import', { servers: PASTED });
      await page.locator('form[action="/upstreams/import/add"] button').first().click();
    }, /what came of it[^]*not added/i],
    ['policies-preview', to('/policies/bindings/house-rules/edit', { 'config/config/otherwise:choice': 'deny' }, look),
      /house-rules[^]*deny[^]*publish it/i],
    ['policies-refused', to('/policies/bindings/limits/edit', { 'config/config/rules/0/limit:number': 'many' }, look),
      /not a number/i],
    ['policies-reloaded', to('/policies', {}, { action: '/policies/reload' }), /read again/i],
    ['policies-tried', to('/policies/try', { principal: 'key:test', upstream: 'tracker', tool: 'echo' }), /what they say[^]*denied/i],
    ['recording', to(`/decisions/${denied}`, {}, { action: `/decisions/${denied}/recording` }), /who-may-what/],
    ['vault-verified', to('/settings/vault', {}, { action: '/settings/vault/verify' }), /what is sealed[^]*looked at/i],
  ];
}
