// The official MCP conformance suite, in both of its modes and at both of its frozen requirement sets, with what they run
// without scoring it as well.
//
// Server mode judges the gateway as callers see it, with our fixture upstream behind it: once speaking both eras, once only
// that with sessions and once only that without, so that the gateway's translation between the eras is judged too. Client
// mode judges the gateway as upstreams see it, and as the client of their authorization servers: the suite starts
// conformance-client, which puts a gateway in front of the suite's own server. Authorization mode judges the authorization
// server, with a person at Chromium, and then the gateway as a server once more, for callers with access tokens and for
// callers without anything.
//
//   node conformance.mjs [server|client|authorization]    starts what it needs; all modes, or one
//   node conformance.mjs --url URL                        judges a server that runs already
//
// The suite cannot send `Authorization`; a relay in front of the gateway adds it and passes everything else through as it
// came. What may fail is in
// conformance-expected.yaml, and nothing else may. A listed line that passes, or that names nothing the suite ran, fails as
// well: the list never says more than the truth.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { EVERYBODY, PERSON, addPerson, operator, register, request, startGatekeeper } from './gatekeeper.mjs';
import {
  built, freePort, installed, relay, run, scratch, start, startGateway, suite, suiteFile, toml, until,
} from './lib.mjs';
import { Visitor, callback, closeChromium } from './visitor.mjs';

const KEY = 'pk_conformance-suite-0000000000000000000000';
/** Longest run of one requirement set. Each takes a few seconds; each of its scenarios has 30. */
const RUN_MS = 300_000;
/** Longest run of a client scenario, and what the suite gives the client of it. */
const CLIENT_RUN_MS = 90_000;
const CLIENT_MS = 60_000;

const REVISIONS = ['2025-11-25', '2026-07-28'];

/**
 * Scenarios of extensions that no requirement set names, and the revision at whose wire they run. Of the client's, those are
 * left out that judge whoever loads a skill: that is never the gateway.
 */
const EXTENSIONS = {
  server: { '2026-07-28': ['sep-2640-skills-directory', 'sep-2640-skills-enumeration', 'sep-2640-skills-manifest'] },
  client: { '2026-07-28': ['sep-2640-client-no-prefetch'] },
};

/** Upstreams by the eras they speak: the fixture's options. */
const UPSTREAMS = { both: [], legacy: ['--legacy'], modern: ['--modern'] };

/**
 * What cannot be had where caller and upstream speak different eras, because the upstream's has no such thing: `scenario` or
 * `scenario:check` and the reason, by revision and upstream. One that can be had after all fails the suite.
 */
const UNBRIDGED = {
  '2025-11-25 both': { 'server-sse-polling': 'an upstream without sessions never ends a stream early' },
  '2025-11-25 modern': { 'server-sse-polling': 'an upstream without sessions never ends a stream early' },
  '2026-07-28 legacy': {
    'server-stateless:sep-2575-server-rejects-undeclared-capability': 'an upstream with sessions does not say what it needs',
    'server-stateless:sep-2575-missing-capability-http-400': 'an upstream with sessions does not say what it needs',
    'input-required-result-basic-elicitation': 'the questions of an upstream with sessions have no names of their own',
    'input-required-result-ignore-extra-params': 'the questions of an upstream with sessions have no names of their own',
    ...Object.fromEntries(
      ['lifecycle', 'capability-negotiation', 'wire-fields', 'request-state-removal', 'mrtr-input', 'request-headers',
        'dispatch-and-envelope', 'required-task-error', 'mrtr-composition']
        .map((part) => [`tasks-${part}`, 'tasks of 2025-11-25 are something else, and not translated']),
    ),
  },
};

/**
 * What a client of the suite's authorization servers does and a gateway does not: extensions, none of which a requirement set
 * scores. A scenario that passes after all fails the suite.
 */
const UNLIKE = {
  'auth/client-credentials-jwt': 'the gateway has no account of its own at an upstream: somebody agrees to each connection',
  'auth/client-credentials-basic': 'the gateway has no account of its own at an upstream: somebody agrees to each connection',
  'auth/enterprise-managed-authorization': 'ID tokens of people are not kept, so that none can be exchanged for an upstream',
  'auth/wif-jwt-bearer': 'the gateway has no assertion of a workload identity to show',
  'auth/dpop': 'tokens of upstreams are not bound to a key',
  'auth/dpop-nonce': 'tokens of upstreams are not bound to a key',
};

/** Scenarios of which the suite itself skips every check. */
const EMPTY = { 'tasks-status-notifications': 'the suite has no check for it at the moment' };

/**
 * How often a scenario is run that measures time, and fails where the machine is merely busy: `server-stateless` waits half
 * a second for a call's answer.
 */
const ATTEMPTS = { 'sse-retry': 3, 'server-stateless': 3 };

await suite('conformance', async (report) => {
  const expected = readExpected(suiteFile('conformance-expected.yaml'));
  const given = process.argv.indexOf('--url');
  const all = ['server', 'client', 'authorization'];
  const modes = given !== -1 ? ['server'] : all.filter((mode) => [undefined, mode].includes(process.argv[2]));
  const upstreams = given !== -1 ? ['unknown'] : Object.keys(UPSTREAMS);
  for (const upstream of modes.includes('server') ? upstreams : []) {
    const url = given !== -1 ? process.argv[given + 1] : await startServers(upstream);
    for (const revision of REVISIONS) await judgeServer(report, revision, upstream, url, expected.server[revision]);
  }
  for (const revision of modes.includes('client') ? REVISIONS : []) {
    await judgeClient(report, revision, expected.client[revision]);
  }
  if (modes.includes('authorization')) await judgeAuthorization(report, expected);
  reportUnused(report, modes.flatMap((mode) => Object.values(expected[mode]).flat()));
});

// ---- the gateway as a server ----------------------------------------------------------------------------------

/**
 * Starts a fixture upstream of these eras and a gateway before it; the URL that the suite is given. `credential` says what the
 * suite's requests carry, if not the key.
 */
async function startServers(upstream, { settings = '', credential = () => KEY } = {}) {
  const [fixturePort, gatewayPort, frontPort] = [await freePort(), await freePort(), await freePort()];
  const program = [built('fixture-upstream'), 'http', String(fixturePort), ...UPSTREAMS[upstream]];
  const fixture = start(`conformance-fixture-${upstream}`, program);
  await until('the fixture upstream listens', async () => {
    fixture.assertRunning();
    return await fetch(`http://127.0.0.1:${fixturePort}/mcp`);
  });
  // The relay is what callers reach, as behind any reverse proxy: the public URL is its address.
  const front = `http://127.0.0.1:${frontPort}`;
  const gateway = `http://127.0.0.1:${gatewayPort}`;
  const data = scratch();
  await startGateway(`conformance-gateway-${upstream}`, `
    public_url = ${toml(front)}
    data_dir = ${toml(data)}
    [listen]
    public = ${toml(`127.0.0.1:${gatewayPort}`)}
    admin = "off"
    [store]
    url = "memory:"
    [upstreams.fixture]
    transport = "streamable-http"
    url = ${toml(`http://127.0.0.1:${fixturePort}/mcp`)}
    prefix = false
    [keys.conformance]
    secret = "env:PORTCULLIS_TEST_KEY"
    allow = [{ upstream = "*", tools = ["*"] }]
    ${settings}
  `, { origin: gateway, env: { PORTCULLIS_TEST_KEY: KEY } });
  // Until there is something to add, the relay adds nothing: whoever signs in comes by here as well.
  const add = {};
  await relay({ port: frontPort, target: gateway, add });
  const carried = await credential({ front, operate: operator(path.join(data, 'admin.sock')) });
  if (carried !== undefined) add.authorization = `Bearer ${carried}`;
  return `${front}/mcp`;
}

/** Runs one requirement set, and each extension's scenario beside it, and reports every scenario. */
async function judgeServer(report, revision, upstream, url, expected, how = '') {
  const { scored, unscored } = requirements(revision, 'server');
  const whole = await conformance(['server', '--url', url, '--requirements', revision], RUN_MS);
  const results = new Map([...scored, ...unscored].map((scenario) => [scenario, whole.checks(scenario)]));
  const failing = scored.filter((scenario) => results.get(scenario)?.some(({ status }) => status === 'FAILURE'));
  // Its exit code must agree with what was read, or its output has changed its shape.
  await report.check(`${revision}, ${how}upstream ${upstream}: the suite comes to the same verdict`, () => {
    assert.deepEqual(scored.filter((scenario) => results.get(scenario) === undefined), [], 'these left no checks');
    // A warning is none of its own, and one more failing scenario of a kind we cannot see is.
    assert.equal(whole.code === 0, failing.length === 0, `it ended with ${whole.code}, and these fail: ${failing}`);
  });
  const once = async (scenario) => {
    const one = await conformance(
      ['server', '--url', url, '--scenario', scenario, '--spec-version', revision, '--force'], RUN_MS,
    );
    results.set(scenario, one.checks(scenario));
  };
  for (const scenario of EXTENSIONS.server[revision] ?? []) await once(scenario);
  for (const [scenario, attempts] of Object.entries(ATTEMPTS)) {
    for (let attempt = 1; attempt < attempts && results.get(scenario)?.some(isBad); attempt += 1) await once(scenario);
  }
  const unbridged = Object.entries(UNBRIDGED[`${revision} ${upstream}`] ?? {}).map(([entry, why]) => {
    const [excused, check] = entry.split(':');
    return { scenario: excused, check, why };
  });
  const excuses = [...expected, ...unbridged];
  for (const [scenario, checks] of results) {
    judge(report, `${revision}, ${how}upstream ${upstream}: ${scenario}`, scenario, checks, excuses);
  }
}

// ---- the gateway as a client ----------------------------------------------------------------------------------

/** Runs each scenario of a requirement set, one after the other. */
async function judgeClient(report, revision, expected) {
  const { scored, unscored } = requirements(revision, 'client');
  const scenarios = [...scored, ...unscored, ...EXTENSIONS.client[revision] ?? []];
  const unlike = Object.entries(UNLIKE).map(([scenario, why]) => ({ scenario, why }));
  for (const scenario of scenarios) {
    const command = ['client', '--command', built('conformance-client'), '--timeout', String(CLIENT_MS)];
    let one;
    for (let attempt = 0; attempt < (ATTEMPTS[scenario] ?? 1); attempt += 1) {
      one = await conformance(
        [...command, '--scenario', scenario, '--spec-version', revision, '--force'], CLIENT_RUN_MS,
      );
      if (one.code === 0) break;
    }
    // The suite's verdict includes how the client ended.
    const checks = [...one.checks(scenario) ?? []];
    if (one.code !== 0 && !checks.some(isBad)) checks.push({ id: 'client', status: 'FAILURE', errorMessage: one.output });
    judge(report, `${revision}, client: ${scenario}`, scenario, checks, [...expected, ...unlike]);
  }
}

// ---- the gateway as an authorization server -------------------------------------------------------------------

/** Of a sign-in at it, with everything that a person may be. */
async function judgeAuthorization(report, expected) {
  for (const revision of REVISIONS) {
    const { gateway, origin, url } = await startGatekeeper(`conformance-authorization-${revision}`, {
      settings: 'mcp = "oauth"\n[auth.tokens]\naccess_life = "1h"\n',
    });
    for (const [as, who] of Object.entries(EVERYBODY)) {
      const port = await freePort();
      const client = await register(origin, { redirect_uris: [`http://127.0.0.1:${port}/callback`] });
      const one = await signInFor(
        ['authorization', '--url', origin, '--client-id', client.client_id, '--resource', url, '-p', String(port),
          '--spec-version', revision],
        { origin, who },
      );
      for (const scenario of ['authorization-server-metadata-endpoint', 'authorization-code-grant']) {
        judge(report, `${revision}, ${as}: ${scenario}`, scenario, one.checks(scenario), expected.authorization[revision]);
      }
    }
    await gateway.stop();

    // The same callers as in server mode, with a token in place of the key, and where tokens are all that counts.
    const token = { settings: '[auth]\nmcp = "oauth"\n[auth.tokens]\naccess_life = "1h"\n', credential: accessToken };
    const withToken = await startServers('both', token);
    await judgeServer(report, revision, 'both', withToken, expected.server[revision], 'with an access token, ');
    const nothing = { settings: '[auth]\nrequired = false\n', credential: () => undefined };
    const without = await startServers('both', nothing);
    await judgeServer(report, revision, 'both', without, expected.server[revision], 'without credentials, ');
  }
  await closeChromium();
}

/** Runs the suite's command line, and consents to what it asks for. */
async function signInFor(args, { origin, who }) {
  const results = scratch();
  const program = installed('@modelcontextprotocol/conformance/dist/index.js');
  const child = spawn(process.execPath, [program, ...args, '-o', results], {
    env: { PATH: process.env.PATH, HOME: scratch() }, stdio: ['ignore', 'pipe', 'pipe'], timeout: CLIENT_RUN_MS,
    killSignal: 'SIGKILL',
  });
  let said = '';
  let address;
  const visitor = await Visitor.arrive({ origin });
  const consented = new Promise((resolve) => {
    const listen = (text) => {
      said += text;
      const [found] = new RegExp(`${origin}/oauth2/authorize\\?\\S+`).exec(said) ?? [];
      if (found === undefined || address !== undefined || !/\s$/.test(said)) return;
      address = found;
      resolve(visitor.consent(address, who).catch((error) => { said += `\n${error.stack}`; }));
    };
    for (const stream of ['stdout', 'stderr']) child[stream].setEncoding('utf8').on('data', listen);
    child.once('close', resolve);
  });
  const code = await new Promise((resolve) => child.once('close', (exit, signal) => resolve(exit ?? signal)));
  await consented;
  visitor.assertUntroubled();
  await visitor.leave();
  console.log(`\n$ conformance ${args.join(' ')}\n${said}`);
  return { code, output: said, checks: checksIn(results) };
}

/** A token of a person, for an hour. */
async function accessToken({ front, operate }) {
  await addPerson(operate, PERSON);
  const back = await callback();
  const { client_id: id } = await register(front, { redirect_uris: [back.url] });
  const begun = request(front, { id, redirect: back.url });
  const visitor = await Visitor.arrive({ origin: front });
  const sent = new URL(await visitor.consent(begun.url, PERSON));
  await visitor.leave();
  back.close();
  const answer = await begun.redeem(sent.searchParams.get('code'));
  assert.equal(answer.status, 200, JSON.stringify(answer));
  return answer.access_token;
}

// ---- verdicts -------------------------------------------------------------------------------------------------

function isBad({ status }) {
  return status === 'FAILURE' || status === 'WARNING';
}

function isVerdict(check) {
  return check.status === 'SUCCESS' || isBad(check);
}

/** Reports one scenario. `excuses` say which scenario, or which check of it, may fail and why; they must be of use. */
function judge(report, title, scenario, checks, excuses) {
  if (checks === undefined) {
    report.fail(title, 'was not run');
    return;
  }
  const excused = excuses.filter((excuse) => excuse.scenario === scenario);
  for (const excuse of excused) excuse.ran = true;
  const bad = checks.filter(isBad);
  const unexcused = bad.filter(({ id }) => !excused.some(({ check }) => check === undefined || check === id));
  const stale = excused.filter(({ check }) => (
    checks.some(isVerdict) && !bad.some(({ id }) => check === undefined || check === id)
  ));
  const why = excused[0]?.why ?? EMPTY[scenario];
  if (unexcused.length > 0) {
    const said = ({ id, errorMessage, details }) => `${id}: ${errorMessage ?? JSON.stringify(details)}`;
    report.fail(title, unexcused.map(said).join('\n'));
  } else if (stale.length > 0) {
    report.fail(title, `passes, although it is said that it cannot: ${why}`);
  } else if (excused.length > 0 || (!checks.some(isVerdict) && why !== undefined)) {
    console.log(`none  ${title}: ${why}`);
  } else if (!checks.some(isVerdict)) {
    report.fail(title, 'came to no verdict on anything');
  } else {
    report.pass(title);
  }
}

/** Runs the suite's command line. Of a scenario it says which checks it left, or undefined. */
async function conformance(args, within) {
  const results = scratch();
  const program = installed('@modelcontextprotocol/conformance/dist/index.js');
  const { stdout, stderr, code } = await run([process.execPath, program, ...args, '-o', results], { within });
  console.log(`\n$ conformance ${args.join(' ')}\n${stdout}${stderr}`);
  return { code, output: stderr, checks: checksIn(results) };
}

/** The checks of a scenario, by what a run of the suite left. */
function checksIn(results) {
  // Names of scenarios may have slashes.
  const folders = readdirSync(results, { recursive: true });
  return (scenario) => {
    const named = new RegExp(`^(server-|authorization-server-)?${scenario}-\\d{4}-\\d\\d-\\d\\dT[^/]*$`);
    const folder = folders.find((name) => named.test(name));
    if (folder === undefined) return undefined;
    return JSON.parse(readFileSync(path.join(results, folder, 'checks.json'), 'utf8'));
  };
}

/** The scenarios of a revision by the list that comes with the suite, for servers or clients. */
function requirements(revision, leg) {
  const file = installed(`@modelcontextprotocol/conformance/requirements/${revision}.yaml`);
  const text = readFileSync(file, 'utf8').replaceAll(/^#.*\n/gm, '');
  const [, list] = new RegExp(`^${leg}:\\n((?:  - .*\\n)+)`, 'm').exec(text);
  const scored = [...list.matchAll(/^  - (\S+)$/gm)].map(([, scenario]) => scenario);
  const [, rest] = /^not_scored:\n((?: .*\n)+)/m.exec(text);
  const unscored = [...rest.matchAll(/^  - scenario: (\S+)\n    leg: (\S+)$/gm)]
    .filter(([, , of]) => of === leg)
    .map(([, scenario]) => scenario);
  assert.ok(scored.length > 0 && unscored.length > 0, `${file} has another shape`);
  return { scored, unscored };
}

/**
 * The list of what may fail, by mode and revision. Every line is `- scenario` or `- scenario:check`, and says what is
 * wrong with the suite; a line of any other form is refused.
 */
function readExpected(file) {
  const expected = {};
  for (const mode of ['server', 'client', 'authorization']) expected[mode] = Object.fromEntries(REVISIONS.map((revision) => [revision, []]));
  let section;
  for (const [index, line] of readFileSync(file, 'utf8').split('\n').entries()) {
    const heading = /^"(\S+) (\S+)":( \[\])?$/.exec(line);
    const entry = /^  - ([^\s:]+)(?::(\S+))? +# (the suite \S.*)$/.exec(line);
    if (heading && expected[heading[1]]?.[heading[2]] !== undefined) section = expected[heading[1]][heading[2]];
    else if (entry && section !== undefined) section.push({ scenario: entry[1], check: entry[2], why: entry[3], ran: false });
    else if (line.trim() !== '' && !line.startsWith('#')) {
      throw new Error(`${path.basename(file)}:${index + 1}: expected \`  - scenario # the suite …\`, found \`${line}\``);
    }
  }
  return expected;
}

function reportUnused(report, lines) {
  for (const line of lines.filter(({ ran }) => !ran)) report.fail(line.scenario, 'listed as failing, but never run');
}
