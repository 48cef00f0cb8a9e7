// The public listener as `docs/openapi/public.json` describes it: schemathesis makes requests from the document, right ones and
// wrong ones, and holds each answer against it: status, type, headers and body, no fault, 405 with `Allow` for other methods.
//
//   node surface.mjs [--seed N] [--examples N]
//
// It comes as somebody who is let in (a client with a secret, a key, a signed-in person, a registered client), so that there are
// answers to hold against the document, and from many addresses, so that it is not sent away for coming too often.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { KEY, PERSON, random, register, secretFile, startGatekeeper } from './gatekeeper.mjs';
import { root, suite, toml } from './lib.mjs';
import { BASE, CHECKS, compare, explore, operationsOf } from './schemathesis.mjs';

const { values: options } = parseArgs({ options: { seed: { type: 'string', default: '1' }, examples: { type: 'string', default: '15' } } });
const DOCUMENT = path.join(root, 'docs/openapi/public.json');
/**
 * What is never but refused, since it needs what another page or answer has shown, an identity or authorization provider, or a
 * public URL with a path: other suites go there.
 */
const NEEDS_MORE = [
  /^(GET|POST) \/oauth2\/consent\//, /^POST \/(account\/|device$|sign-in$)/, /^GET \/(sign-in|assets)\//, /^(GET|DELETE) \/mcp/,
  /^POST \/messages$/, /^GET \/\.well-known\/.*\/\{path\}$/,
  /^POST \/connect\/link$/, /^GET \/connect\/(link|callback|client)\//,
];
/** Statuses that refuse what is wrong; pages send a browser elsewhere instead. */
const REFUSALS = [303, 400, 401, 403, 404, 405, 406, 408, 410, 413, 414, 415, 421, 422, 429];
const RUN_MS = 900_000;
const APP = { id: 'app', secret: `pcs_${random()}`, redirect: 'https://app.example/callback' };

await suite('surface', async (report) => {
  const { origin, gateway } = await startGatekeeper('surface', {
    settings: `
      [mcp]
      legacy_sse = true
      [auth.clients]
      registrations_per_minute = 1000
      [auth.grants]
      client_credentials = true
      device = true
      [auth.clients.known.${APP.id}]
      secret = ${toml(`file:${secretFile('app', APP.secret)}`)}
      redirect_uris = [${toml(APP.redirect)}]
      grant_types = ["authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code"]
      key = "test"
    `,
  });
  const document = JSON.parse(readFileSync(DOCUMENT, 'utf8'));
  const settled = await settings(origin, document);
  const found = await explore({ document, origin, settings: settled, checks: CHECKS, within: RUN_MS, ...options });
  await compare(report, found, NEEDS_MORE);
  await report.check('the gateway is still there', () => gateway.assertRunning());
});

/** Who schemathesis comes as. What it cannot know from the document is put there as an example. */
async function settings(origin, document) {
  const person = await signIn(origin);
  const lines = [`${BASE}
    [checks.negative_data_rejection]
    expected-statuses = [${REFUSALS.join(', ')}]
    [auth.openapi.client]
    username = ${toml(APP.id)}
    password = ${toml(APP.secret)}
    [auth.openapi.access_token]
    bearer = ${toml(KEY)}
    [auth.openapi.virtual_key]
    bearer = ${toml(KEY)}
  `];
  for (const [at, item] of Object.entries(document.paths)) {
    for (const [method, operation] of operationsOf(item)) {
      const headers = {};
      if (/^\/(account|device)/.test(at)) headers.Cookie = person;
      // Forms count that a page of ours has sent.
      if (method === 'post' && operation.security?.some(({ session }) => session)) headers.Origin = origin;
      if (at === '/oauth2/register/{client_id}') {
        const client = await register(origin, { redirect_uris: [APP.redirect] });
        headers.Authorization = `Bearer ${client.registration_access_token}`;
        operation.parameters = [{ ...document.components.parameters.Client, example: client.client_id }];
        for (const { example } of Object.values(operation.requestBody?.content ?? {})) example.client_id = client.client_id;
      }
      if (Object.keys(headers).length === 0) continue;
      const table = Object.entries(headers).map(([name, value]) => `${toml(name)} = ${toml(value)}`).join(', ');
      lines.push(`
        [[operations]]
        include-name = ${toml(`${method.toUpperCase()} ${at}`)}
        headers = { ${table} }
      `);
    }
  }
  return lines.join('\n');
}

/** The cookie of a session of the person. */
async function signIn(origin) {
  const page = await fetch(`${origin}/sign-in`);
  const [, token] = /name="form_token" value="([^"]+)"/.exec(await page.text());
  const cookies = (answer) => answer.headers.getSetCookie().map((cookie) => cookie.split(';')[0]);
  const answer = await fetch(`${origin}/sign-in`, {
    method: 'POST', redirect: 'manual', headers: { origin, cookie: cookies(page).join('; ') },
    body: new URLSearchParams({ form_token: token, login: PERSON.login, password: PERSON.password }),
  });
  assert.equal(answer.status, 303, await answer.text());
  return cookies(answer).find((cookie) => !cookie.endsWith('='));
}
