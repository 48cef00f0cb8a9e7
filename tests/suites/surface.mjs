// The public listener as `docs/openapi/public.json` describes it: schemathesis makes requests from the document, right ones and
// wrong ones, and holds each answer against it: status, type, headers and body, no fault, 405 with `Allow` for other methods.
//
//   node surface.mjs [--seed N] [--examples N]
//
// It comes as somebody who is let in (a client with a secret, a key, a signed-in person, a registered client), so that there are
// answers to hold against the document, and from many addresses, so that it is not sent away for coming too often.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { KEY, PERSON, random, register, secretFile, startGatekeeper } from './gatekeeper.mjs';
import { root, run, scratch, suite, toml } from './lib.mjs';

const { values: options } = parseArgs({ options: { seed: { type: 'string', default: '1' }, examples: { type: 'string', default: '15' } } });
const DOCUMENT = path.join(root, 'docs/openapi/public.json');
/** Installed by tests/run from tests/requirements.txt. */
const PROGRAM = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'python/bin/schemathesis');
const CHECKS = [
  'not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_headers_conformance',
  'response_schema_conformance', 'unsupported_method', 'allow_header_conformance', 'negative_data_rejection', 'ignored_auth',
];
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
const METHODS = ['get', 'put', 'post', 'delete', 'patch'];
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
  const operations = Object.entries(document.paths).flatMap(([at, item]) =>
    operationsOf(item).map(([method]) => `${method.toUpperCase()} ${at}`));

  const dir = scratch();
  const file = (name) => path.join(dir, name);
  const [results, traffic, config, known] = [file('results.xml'), file('traffic.har'), file('settings.toml'), file('public.json')];
  writeFileSync(config, await settings(origin, document));
  writeFileSync(known, JSON.stringify(document));
  const said = await run([
    PROGRAM, '--config-file', config, 'run', known, '--url', origin, '--seed', options.seed, '--max-examples', options.examples,
    '--phases', 'examples,coverage,fuzzing', '--checks', CHECKS.join(','), '--continue-on-failure', '--no-shrink',
    '--report', 'junit,har', '--report-junit-path', results, '--report-har-path', traffic, '--request-timeout', '20', '--warnings', 'off',
  ], { within: RUN_MS, cwd: dir });
  console.log(said.stdout);
  assert.ok(existsSync(results), `schemathesis left no results (${said.code}): ${said.stderr}`);
  const judged = judgements(readFileSync(results, 'utf8'));
  const answers = answered(JSON.parse(readFileSync(traffic, 'utf8')), operations);
  for (const operation of operations) {
    const statuses = [...answers.get(operation)].sort().map(([status, count]) => `${count} × ${status}`).join(', ');
    await report.check(`${operation} answers as the document says (${statuses})`, () => {
      assert.ok(judged.has(operation), 'nobody has asked');
      assert.equal(judged.get(operation), undefined);
      // A document that is held against refusals alone says little.
      const succeeds = [...answers.get(operation).keys()].some((status) => status < 400);
      const needsMore = NEEDS_MORE.some((pattern) => pattern.test(operation));
      assert.equal(succeeds, !needsMore, 'whether anything was not refused');
    });
  }
  await report.check('the gateway is still there', () => gateway.assertRunning());
});

/** Who schemathesis comes as. What it cannot know from the document is put there as an example. */
async function settings(origin, document) {
  const person = await signIn(origin);
  const lines = [`
    # As many events of a stream are read.
    max-stream-events = 1
    [generation]
    database = "none"
    # In the order of the document: the headers of whatever comes first are sent with everything, and that has none.
    [phases.coverage]
    operation-ordering = "none"
    [phases.fuzzing]
    operation-ordering = "none"
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

function operationsOf(item) {
  return Object.entries(item).filter(([method]) => METHODS.includes(method));
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

/** How often each operation was answered with each status. */
function answered(har, operations) {
  const routes = operations.map((operation) => {
    const [method, at] = operation.split(' ');
    const pattern = at.split('/').map((part) => (part.startsWith('{') ? '[^/]+' : part.replaceAll('.', '\\.'))).join('/');
    return { operation, method, matches: new RegExp(`^${pattern}$`), count: at.split('{').length };
  }).sort((a, b) => a.count - b.count);
  const answers = new Map(operations.map((operation) => [operation, new Map()]));
  for (const { request, response } of har.log.entries) {
    const { pathname } = new URL(request.url);
    const route = routes.find(({ method, matches }) => method === request.method && matches.test(pathname));
    if (route === undefined) continue;
    const statuses = answers.get(route.operation);
    statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
  }
  return answers;
}

/** What the report says: of each operation why it failed, or nothing. */
function judgements(xml) {
  const plain = (text) => text.replace(/&(lt|gt|quot|apos|amp|#10);/g, (_, name) =>
    ({ lt: '<', gt: '>', quot: '"', apos: "'", amp: '&', '#10': '\n' })[name]);
  const judged = new Map();
  for (const [, attributes, , content = ''] of xml.matchAll(/<testcase ([^>]*?)(\/>|>(.*?)<\/testcase>)/gs)) {
    const name = plain(/\bname="([^"]*)"/.exec(attributes)[1]);
    const why = [...content.matchAll(/<(?:failure|error)[^>]*?(?:message="([^"]*)")?[^>]*>/g)].map(([, message]) => plain(message ?? 'failed'));
    judged.set(name, [judged.get(name), ...why].filter(Boolean).join('\n') || undefined);
  }
  return judged;
}
