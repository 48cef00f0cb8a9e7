// The official MCP conformance suite, server mode, against the gateway with our fixture upstream behind it: both
// frozen requirement sets, and of what they run without scoring it the scenarios that are the gateway's own logic.
//
//   node conformance.mjs                starts the fixture upstream and the gateway
//   node conformance.mjs --url URL      judges a server that runs already
//
// The suite cannot send `Authorization`; a relay in front of the gateway adds it and passes everything else through
// as it came. What may fail is in conformance-expected.yaml, and nothing else may. A listed line that passes, or that
// names nothing the suite ran, fails as well: the list never says more than the truth.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import {
  built, freePort, installed, relay, run, scratch, start, startGateway, suite, suiteFile, toml, until,
} from './lib.mjs';

const KEY = 'pk_conformance-suite-0000000000000000000000';
/** Longest run of one requirement set. Each takes a few seconds; each of its scenarios has 30. */
const RUN_MS = 300_000;

const REVISIONS = ['2025-11-25', '2026-07-28'];

/**
 * Run by the requirement sets but not scored by them: we score what we claim to serve. Of the rest, tasks and skills
 * are extensions, and `server-sse-polling` comes to no verdict on a server whose streams do not resume.
 */
const ALSO_SCORED = {
  '2025-11-25': ['server-session-lifecycle', 'json-schema-2020-12'],
  '2026-07-28': ['json-schema-2020-12', 'http-header-validation', 'http-custom-header-server-validation'],
};

await suite('conformance', async (report) => {
  const expected = readExpected(suiteFile('conformance-expected.yaml'));
  const given = process.argv.indexOf('--url');
  const url = given === -1 ? await startServers() : process.argv[given + 1];
  for (const revision of REVISIONS) await judge(report, revision, url, expected[revision]);
});

async function startServers() {
  const [fixturePort, gatewayPort, frontPort] = [await freePort(), await freePort(), await freePort()];
  const fixture = start('conformance-fixture', [built('fixture-upstream'), 'http', String(fixturePort)]);
  await until('the fixture upstream listens', async () => {
    fixture.assertRunning();
    return await fetch(`http://127.0.0.1:${fixturePort}/mcp`);
  });
  // The relay is what callers reach, as behind any reverse proxy: the public URL is its address.
  const front = `http://127.0.0.1:${frontPort}`;
  const gateway = `http://127.0.0.1:${gatewayPort}`;
  await startGateway('conformance-gateway', `
    public_url = ${toml(front)}
    data_dir = ${toml(scratch())}
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
  `, { origin: gateway, env: { PORTCULLIS_TEST_KEY: KEY } });
  await relay({ port: frontPort, target: gateway, add: { authorization: `Bearer ${KEY}` } });
  return `${front}/mcp`;
}

/** Runs one requirement set, and each scenario of ours beside it, and reports every scenario. */
async function judge(report, revision, url, lines) {
  const baseline = path.join(scratch(), `${revision}.yaml`);
  writeFileSync(baseline, lines.length > 0 ? `server:\n${lines.map((line) => `  - ${line}\n`).join('')}` : 'server: []\n');
  const common = ['server', '--url', url, '--expected-failures', baseline];

  const ran = [await conformance([...common, '--requirements', revision])];
  for (const scenario of ALSO_SCORED[revision]) {
    ran.push(await conformance([...common, '--scenario', scenario, '--spec-version', revision, '--force'], scenario));
  }
  const scenarios = new Set(ran.flatMap((each) => each.scenarios));

  let listed = 0;
  for (const scenario of scenarios) {
    const title = `${revision} ${scenario}`;
    const of = (kind) => ran.flatMap((each) => each[kind]).filter((entry) => entry.split(':')[0] === scenario);
    if (of('unexpected').length > 0) {
      report.fail(title, of('unexpected').flatMap((entry) => explain(ran, entry)).join('\n'));
    } else if (of('stale').length > 0) {
      report.fail(title, of('stale').map((entry) => `${entry} is listed as failing, but passes`).join('\n'));
    } else if (of('expected').length > 0) {
      listed += 1;
      console.log(`list  ${title}: ${of('expected').join(', ')}`);
    } else if (checksOf(ran, scenario).length === 0) {
      report.fail(title, 'came to no verdict on anything');
    } else {
      report.pass(title);
    }
  }
  for (const line of lines.filter((line) => !scenarios.has(line.split(':')[0]))) {
    report.fail(`${revision} ${line}`, 'listed as failing, but never run');
  }
  console.log(`${revision}: ${scenarios.size} scenarios, ${listed} fail as listed in conformance-expected.yaml`);
}

/**
 * Runs the suite's command line and reads from its output which scenarios it scored, and its own verdict of what
 * failed against the list it was given. Without `only` it scores what its requirement set scores.
 */
async function conformance(args, only) {
  const results = scratch();
  const program = installed('@modelcontextprotocol/conformance/dist/index.js');
  const { stdout, stderr, code } = await run([process.execPath, program, ...args, '-o', results], { within: RUN_MS });
  console.log(`\n$ conformance ${args.join(' ')}\n${stdout}${stderr}`);
  const entries = (mark) => [...stdout.matchAll(new RegExp(`^  ${mark} (\\S+)$`, 'gm'))].map((match) => match[1]);
  const verdict = {
    results,
    scenarios: only === undefined ? required(args.at(-1), stdout) : [only],
    expected: entries('~'),
    stale: entries('✓'),
    unexpected: entries('✗'),
  };
  // Its exit code must agree with what was read, or the output has changed its shape.
  const clean = verdict.stale.length + verdict.unexpected.length === 0;
  if (code !== (clean ? 0 : 1)) throw new Error(`conformance ended with ${code}, which its output does not explain`);
  return verdict;
}

/** The scenarios that a revision requires, by the list that comes with the suite; its summary must have each. */
function required(revision, output) {
  const file = installed(`@modelcontextprotocol/conformance/requirements/${revision}.yaml`);
  const [, server] = /^server:\n((?:  - .*\n|#.*\n|\n)+)/m.exec(readFileSync(file, 'utf8'));
  const scenarios = [...server.matchAll(/^  - (\S+)/gm)].map((match) => match[1]);
  const missing = scenarios.filter((scenario) => !new RegExp(`^[✓✗] ${scenario}: `, 'm').test(output));
  if (scenarios.length === 0 || missing.length > 0) throw new Error(`${revision} was not run whole: ${missing}`);
  return scenarios;
}

/** A scenario's checks that came to a verdict, from the files that the suite leaves. */
function checksOf(ran, scenario) {
  for (const { results } of ran) {
    const folder = readdirSync(results).find((name) => name.startsWith(`server-${scenario}-2`));
    if (folder === undefined) continue;
    const checks = JSON.parse(readFileSync(path.join(results, folder, 'checks.json'), 'utf8'));
    return checks.filter(({ status }) => ['SUCCESS', 'FAILURE', 'WARNING'].includes(status));
  }
  return [];
}

/** What the failing checks of an entry, `scenario` or `scenario:check`, said. */
function explain(ran, entry) {
  const [scenario, check] = entry.split(':');
  return checksOf(ran, scenario)
    .filter(({ id, status }) => status !== 'SUCCESS' && (check === undefined || id === check))
    .map(({ id, errorMessage, details }) => `${id}: ${errorMessage ?? JSON.stringify(details)}`);
}

/**
 * The list of what may fail, by revision. Every line is `- scenario` or `- scenario:check`, and says which issue of
 * the project's tracker removes it; a line of any other form is refused.
 */
function readExpected(file) {
  const expected = Object.fromEntries(REVISIONS.map((revision) => [revision, []]));
  let section;
  for (const [index, line] of readFileSync(file, 'utf8').split('\n').entries()) {
    const heading = /^"?(\d{4}-\d\d-\d\d)"?:( \[\])?$/.exec(line);
    const entry = /^  - (\S+) +# issue \d+: \S.*$/.exec(line);
    if (heading && expected[heading[1]] !== undefined) section = expected[heading[1]];
    else if (entry && section !== undefined) section.push(entry[1]);
    else if (line.trim() !== '' && !line.startsWith('#')) {
      throw new Error(`conformance-expected.yaml:${index + 1}: expected \`  - scenario # issue N: why\`, found \`${line}\``);
    }
  }
  return expected;
}
