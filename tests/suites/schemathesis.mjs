// schemathesis makes requests from an OpenAPI document, right ones and wrong ones, and holds each answer against it. The
// suites that ask a listener what its document says share how it is run and how its results are read.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { root, run, scratch, suiteFile, toml } from './lib.mjs';

/** Installed by tests/run from tests/requirements.txt. */
const PROGRAM = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'python/bin/schemathesis');
const METHODS = ['get', 'put', 'post', 'delete', 'patch'];

export const CHECKS = [
  'not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_headers_conformance',
  'response_schema_conformance', 'unsupported_method', 'allow_header_conformance', 'negative_data_rejection', 'ignored_auth',
];

/** What the settings of every run begin with. */
export const BASE = `
    hooks = ${toml(suiteFile('schemathesis-hooks.py'))}
    # As many events of a stream are read.
    max-stream-events = 1
    [generation]
    database = "none"
    # In the order of the document: the headers of whatever comes first are sent with everything, and that has none.
    [phases.coverage]
    operation-ordering = "none"
    [phases.fuzzing]
    operation-ordering = "none"
`;

/** Methods with their operations. */
export function operationsOf(item) {
  return Object.entries(item).filter(([method]) => METHODS.includes(method));
}

/** All operations of a document as `METHOD /path`. */
export function namesOf(document) {
  return Object.entries(document.paths).flatMap(([at, item]) =>
    operationsOf(item).map(([method]) => `${method.toUpperCase()} ${at}`));
}

/**
 * Asks what listens at `origin` what the document says. Why each operation failed, how often it answered what, and how many of the
 * ways from an answer to the next request were gone: in the phase `stateful`, which goes on for as many seconds as are said. With a
 * `method`, nothing but that is asked.
 */
export async function explore(options) {
  const { document, origin, settings, checks, seed, examples, within, phases = 'examples,coverage,fuzzing', method, seconds } = options;
  const dir = scratch();
  const file = (name) => path.join(dir, name);
  const [results, traffic, config, known] = [file('results.xml'), file('traffic.har'), file('settings.toml'), file('document.json')];
  writeFileSync(config, settings);
  writeFileSync(known, JSON.stringify(document));
  const said = await run([
    PROGRAM, '--config-file', config, 'run', known, '--url', origin, '--seed', seed, '--max-examples', examples,
    '--phases', phases, '--checks', checks.join(','), '--continue-on-failure', '--no-shrink',
    ...(method === undefined ? [] : ['--include-method', method]), ...(seconds === undefined ? [] : ['--max-time', String(seconds)]),
    '--report', 'junit,har', '--report-junit-path', results, '--report-har-path', traffic, '--request-timeout', '20', '--warnings', 'off',
  ], { within, cwd: dir, env: { PYTHONDONTWRITEBYTECODE: '1' } });
  console.log(said.stdout);
  assert.ok(existsSync(results), `schemathesis left no results (${said.code}): ${said.stderr}`);
  const operations = namesOf(document).filter((name) => method === undefined || name.startsWith(`${method} `));
  return {
    operations,
    judged: judgements(readFileSync(results, 'utf8')),
    answers: answered(JSON.parse(readFileSync(traffic, 'utf8')), operations),
    ways: Number(/API Links: +(\d+) covered/.exec(said.stdout)?.[1] ?? 0),
  };
}

/** A check for each operation. Those that `needsMore` matches, and no others, are never but refused. `who` asked, if not everybody asks so. */
export async function compare(report, { operations, judged, answers }, needsMore, who = '') {
  for (const operation of operations) {
    const statuses = [...answers.get(operation)].sort().map(([status, count]) => `${count} × ${status}`).join(', ');
    await report.check(`${operation} answers ${who}as the document says (${statuses})`, () => {
      assert.ok(judged.has(operation), 'nobody has asked');
      assert.equal(judged.get(operation), undefined);
      // A document that is held against refusals alone says little.
      const succeeds = [...answers.get(operation).keys()].some((status) => status < 400);
      assert.equal(succeeds, !needsMore.some((pattern) => pattern.test(operation)), 'whether anything was not refused');
    });
  }
  // Methods that the document does not have are judged by themselves.
  await report.check('nothing else was answered otherwise than it should be', () => {
    const others = [...judged].filter(([operation, why]) => why !== undefined && !operations.includes(operation));
    assert.deepEqual(others, []);
  });
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
