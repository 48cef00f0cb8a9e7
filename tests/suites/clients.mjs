// Public MCP clients against a running gateway, with the official server-everything behind it twice: over streamable
// HTTP and over stdio. What a client gets through the gateway must equal what it gets from the server directly.
//
//   node clients.mjs               starts the servers and the gateway
//   node clients.mjs --full        long forms as well
//
// Byte-for-byte comparison and mixed revisions belong to the Rust suites; here other people's clients judge.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';

import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import {
  childrenOf, freePort, installed, isAlive, relay, run, scratch, start, startGateway, suite, toml, until,
} from './lib.mjs';

const full = process.argv.includes('--full');

const KEY = 'pk_clients-suite-full-access-000000000000000';
const NARROW_KEY = 'pk_clients-suite-echo-only-00000000000000000';
const INVALID_PARAMS = -32602;

const everything = installed('@modelcontextprotocol/server-everything/dist/index.js');
const inspector = installed('@modelcontextprotocol/inspector/clients/launcher/build/index.js');
const identity = { name: 'portcullis-clients-suite', version: '1.0.0' };

/** The upstreams by name: the same server over both transports. */
const UPSTREAMS = ['everything', 'everything-stdio'];

/** Calls of every content kind, with arguments unique to `tag` where the server keeps what it is given. */
const calls = (tag) => [
  ['text', 'echo', { message: `héllo ${tag} \u{1F3F0} "quoted"\n` }],
  ['numbers', 'get-sum', { a: 2.5, b: 40 }],
  ['an image', 'get-tiny-image', {}],
  ['annotations', 'get-annotated-message', { messageType: 'error', includeImage: true }],
  ['resource links', 'get-resource-links', { count: 4 }],
  ['an embedded text resource', 'get-resource-reference', { resourceType: 'Text', resourceId: 7 }],
  ['an embedded binary resource', 'get-resource-reference', { resourceType: 'Blob', resourceId: 8 }],
  ['structured content', 'get-structured-content', { location: 'Chicago' }],
  ['a session resource', 'gzip-file-as-resource', gzip(tag)],
  ['an error of the tool', 'get-sum', { a: 'two', b: 40 }],
];

const gzip = (tag) => ({ name: `${tag}.gz`, data: 'data:text/plain;base64,aGVsbG8=', outputType: 'resource' });

// ---- the clients ----------------------------------------------------------------------------------------------

const PEERS = [
  { title: 'SDK v1', tag: 'v1', revision: '2025-11-25', connect: connectV1 },
  { title: 'SDK v2 legacy', tag: 'v2-legacy', revision: '2025-11-25', connect: connectV2('legacy') },
  { title: 'SDK v2 auto', tag: 'v2-auto', revision: '2026-07-28', connect: connectV2('auto') },
  { title: 'SDK v2 modern', tag: 'v2-modern', revision: '2026-07-28', connect: connectV2({ pin: '2026-07-28' }) },
];

/** Both SDKs in one shape. */
async function connectV1(url, headers = {}) {
  const client = new ClientV1(identity);
  const transport = new TransportV1(new URL(url), { requestInit: { headers } });
  await client.connect(transport);
  return {
    revision: transport.protocolVersion,
    list: () => everyPage((params) => client.listTools(params)),
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    ping: () => client.ping(),
    close: () => client.close(),
  };
}

function connectV2(mode) {
  return async (url, headers = {}) => {
    const client = new ClientV2(identity, { versionNegotiation: { mode } });
    await client.connect(new TransportV2(new URL(url), { requestInit: { headers } }));
    return {
      revision: client.getNegotiatedProtocolVersion(),
      list: () => everyPage((params) => client.listTools(params)),
      call: (name, args, options) => client.callTool({ name, arguments: args }, options),
      ping: () => client.ping(),
      close: () => client.close(),
    };
  };
}

async function everyPage(list) {
  const tools = [];
  let cursor;
  do {
    const page = await list(cursor === undefined ? {} : { cursor });
    tools.push(...page.tools);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return tools;
}

const bearer = (key) => ({ authorization: `Bearer ${key}` });

/** server-everything writes the time of day into some resources: masks it, in plain text and in base64. */
function timeless(value) {
  const clock = /\d{1,2}:\d\d:\d\d [AP]M/g;
  return JSON.parse(JSON.stringify(value), (name, part) => {
    if (typeof part !== 'string') return part;
    const text = name === 'blob' ? Buffer.from(part, 'base64').toString() : part;
    const masked = text.replace(clock, 'TIME');
    return masked === text ? part : masked;
  });
}

/** What only the modern revision puts into a result is the gateway's word, not the upstream's. */
function unwrapped({ resultType, ttlMs, cacheScope, _meta, ...result }) {
  const { 'io.modelcontextprotocol/serverInfo': _, ...meta } = _meta ?? {};
  return Object.keys(meta).length > 0 ? { ...result, _meta: meta } : result;
}

const sameResult = (got, wanted) => assert.deepEqual(timeless(unwrapped(got)), timeless(unwrapped(wanted)));

/** Rejects with a JSON-RPC error of this code. */
const refusedWith = (code, promise) => assert.rejects(promise, (error) => {
  assert.equal(error.code, code, `expected error ${code}, got ${error.code}: ${error.message}`);
  return true;
});

// ---- the suite ------------------------------------------------------------------------------------------------

await suite('clients', async (report) => {
  const [everythingPort, upstreamPort, gatewayPort] = [await freePort(), await freePort(), await freePort()];
  const direct = `http://127.0.0.1:${everythingPort}/mcp`;
  const origin = `http://127.0.0.1:${gatewayPort}`;
  const url = `${origin}/mcp`;

  // The gateway reaches the HTTP upstream through a relay, which remembers what was sent.
  const sent = [];
  await relay({
    port: upstreamPort, target: direct, seen: (headers, body) => sent.push({ headers, body }),
  });

  const server = start('clients-server-everything', [process.execPath, everything, 'streamableHttp'], {
    env: { PORT: String(everythingPort) },
  });
  await until('server-everything listens', async () => {
    server.assertRunning();
    return await fetch(direct);
  });

  const gateway = await startGateway('clients-gateway', `
    public_url = ${toml(origin)}
    data_dir = ${toml(scratch())}
    [listen]
    public = ${toml(`127.0.0.1:${gatewayPort}`)}
    admin = "off"
    [store]
    url = "memory:"
    [upstreams.everything]
    transport = "streamable-http"
    url = ${toml(`http://127.0.0.1:${upstreamPort}/mcp`)}
    [upstreams.everything-stdio]
    transport = "stdio"
    command = ${toml([process.execPath, everything, 'stdio'])}
    [keys.test]
    secret = "env:PORTCULLIS_TEST_KEY"
    allow = [{ upstream = "*", tools = ["*"] }]
    [keys.narrow]
    secret = "env:PORTCULLIS_NARROW_KEY"
    allow = [{ upstream = "everything", tools = ["echo"] }]
  `, { origin, env: { PORTCULLIS_TEST_KEY: KEY, PORTCULLIS_NARROW_KEY: NARROW_KEY } });

  const reference = await connectV1(direct);
  const tools = await reference.list();
  const wantedTools = UPSTREAMS
    .flatMap((upstream) => tools.map((tool) => ({ ...tool, name: `${upstream}__${tool.name}` })))
    .sort(byName);

  await report.check('both upstreams are listed soon after the gateway is ready', () => until(
    'every tool is listed', async () => {
      const client = await connectV1(url, bearer(KEY));
      const count = (await client.list()).length;
      await client.close();
      return count === wantedTools.length;
    }, 20_000,
  ));

  for (const peer of PEERS) await checkPeer(report, peer, { url, reference, wantedTools, sent });
  await checkKeys(report, { url, sent });
  await checkInspector(report, { url, reference, wantedTools });
  await reference.close();
  await checkEnd(report, gateway);
});

function byName(a, b) {
  return a.name < b.name ? -1 : 1;
}

/** One SDK in one of its modes: everything a client does with tools, over both upstream transports. */
async function checkPeer(report, { title, tag, revision, connect }, { url, reference, wantedTools, sent }) {
  // `execution` left the protocol with the modern revision; a client that speaks it does not show the field.
  const known = ({ execution, ...tool }) => (revision < '2026' ? { ...tool, execution } : tool);
  let client;
  const connected = await report.check(`${title}: connects and speaks ${revision}`, async () => {
    client = await connect(url, bearer(KEY));
    assert.equal(client.revision, revision);
  });
  if (!connected) return;

  await report.check(`${title}: lists the tools of both upstreams, unchanged but for their names`, async () => {
    assert.deepEqual((await client.list()).sort(byName).map(known), wantedTools.map(known));
  });
  if (revision < '2026') {
    await report.check(`${title}: is answered to ping`, () => client.ping());
  }

  for (const upstream of UPSTREAMS) {
    const [where, through] = [`${title} via ${upstream}`, (tool) => `${upstream}__${tool}`];
    for (const [kind, tool, args] of calls(`${tag}-${upstream}`)) {
      await report.check(`${where}: ${kind} (${tool})`, async () => {
        sameResult(await client.call(through(tool), args), await reference.call(tool, args));
      });
    }

    await report.check(`${where}: progress arrives, in order, before the result`, async () => {
      const progress = [];
      const args = { duration: 0.8, steps: 4 };
      const result = await client.call(through('trigger-long-running-operation'), args, {
        onprogress: ({ progress: done, total }) => progress.push([done, total]),
      });
      assert.deepEqual(progress, [[1, 4], [2, 4], [3, 4], [4, 4]]);
      sameResult(result, await reference.call('trigger-long-running-operation', args));
    });

    await report.check(`${where}: cancelling ends the call and no other`, async () => {
      const cancel = new AbortController();
      const other = client.call(through('trigger-long-running-operation'), { duration: 1.2, steps: 1 });
      const cancelled = client.call(
        through('trigger-long-running-operation'), { duration: 25, steps: 5 }, { signal: cancel.signal },
      );
      const before = sent.length;
      setTimeout(() => cancel.abort('no longer wanted'), 400);
      const began = performance.now();
      await assert.rejects(cancelled);
      assert.ok(performance.now() - began < 5_000, 'the call ended late');
      assert.match((await other).content[0].text, /Duration: 1.2 seconds/);
      if (upstream === 'everything') {
        await until('the upstream hears of it', () => cancelledIn(sent.slice(before)), 5_000);
      }
    });

    await report.check(`${where}: an unknown tool is an error ${INVALID_PARAMS}`, () => (
      refusedWith(INVALID_PARAMS, client.call(through('no-such-tool'), {}))
    ));

    await report.check(`${where}: 40 calls at once each get their own answer`, async () => {
      const messages = Array.from({ length: 40 }, (_, index) => `${tag} ${index}`);
      const results = await Promise.all(messages.map((message) => client.call(through('echo'), { message })));
      assert.deepEqual(results.map((result) => result.content[0].text), messages.map((text) => `Echo: ${text}`));
    });
  }

  await report.check(`${title}: a tool of no upstream is an error ${INVALID_PARAMS}`, () => (
    refusedWith(INVALID_PARAMS, client.call('echo', { message: 'unprefixed' }))
  ));
  if (full) {
    await report.check(`${title}: a call of 55 seconds with progress every second`, async () => {
      let steps = 0;
      const args = { duration: 55, steps: 55 };
      await client.call('everything__trigger-long-running-operation', args, { onprogress: () => (steps += 1) });
      assert.equal(steps, 55);
    }, { within: 70_000 });
  }
  await report.check(`${title}: closes`, () => client.close());
}

/** Whether one of these messages cancels a call that went to the upstream before. */
function cancelledIn(messages) {
  return messages.some(({ body }) => (
    body.includes('"notifications/cancelled"') && JSON.parse(body).params?.requestId !== undefined
  ));
}

/** Keys: which are accepted, where, what each may see, and that they stay with us. */
async function checkKeys(report, { url, sent }) {
  const initialize = (headers) => fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
    body: JSON.stringify({
      jsonrpc: '2.0', id: 1, method: 'initialize',
      params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: identity },
    }),
  });

  const refusals = [];
  for (const [which, headers] of [
    ['no key', {}],
    ['an unknown key', bearer('pk_nobody-was-ever-given-this-key-000000000000')],
    ['an empty key', { authorization: 'Bearer ' }],
    ['another scheme', { authorization: `Basic ${Buffer.from(`test:${KEY}`).toString('base64')}` }],
    ['an unknown key in its own header', { 'x-portcullis-key': `${KEY}x` }],
  ]) {
    await report.check(`${which} is answered 401 with a challenge`, async () => {
      const answer = await initialize(headers);
      refusals.push(await answer.text());
      assert.equal(answer.status, 401);
      assert.match(answer.headers.get('www-authenticate') ?? '', /^Bearer\b/);
      assert.equal(answer.headers.get('mcp-session-id'), null);
    });
  }
  await report.check('all these refusals read the same', () => {
    assert.equal(refusals.length, 5);
    assert.equal(new Set(refusals).size, 1);
  });

  for (const { title, connect } of PEERS) {
    await report.check(`${title}: a wrong key fails the connection`, () => (
      assert.rejects(connect(url, bearer('pk_nobody-was-ever-given-this-key-000000000000')))
    ));
    await report.check(`${title}: the key is accepted as X-Portcullis-Key`, async () => {
      const client = await connect(url, { 'x-portcullis-key': KEY });
      const result = await client.call('everything__echo', { message: 'key header' });
      assert.equal(result.content[0].text, 'Echo: key header');
      await client.close();
    });
    await report.check(`${title}: a narrow key sees and calls its one tool only`, async () => {
      const client = await connect(url, bearer(NARROW_KEY));
      assert.deepEqual((await client.list()).map((tool) => tool.name), ['everything__echo']);
      const result = await client.call('everything__echo', { message: 'allowed' });
      assert.equal(result.content[0].text, 'Echo: allowed');
      const before = sent.length;
      await assert.rejects(client.call('everything__get-sum', { a: 1, b: 2 }));
      await assert.rejects(client.call('everything-stdio__echo', { message: 'not mine' }));
      assert.ok(!sent.slice(before).some(({ body }) => body.includes('tools/call')), 'the call reached the upstream');
      await client.close();
    });
  }

  await report.check('no key ever reaches an upstream', async () => {
    assert.ok(sent.length > 0);
    const leaks = sent.filter((request) => JSON.stringify(request).includes(KEY) || request.headers.authorization);
    assert.deepEqual(leaks, []);
    const client = await connectV1(url, bearer(KEY));
    const [{ text }] = (await client.call('everything-stdio__get-env', {})).content;
    await client.close();
    assert.ok(!text.includes('PORTCULLIS') && !text.includes(KEY), text);
  });
}

/** The inspector's command line, once in each of its three eras. */
async function checkInspector(report, { url, reference, wantedTools }) {
  const home = scratch();
  const inspect = (era, key, ...args) => run(
    [process.execPath, inspector, '--cli', url, '--transport', 'http', '--protocol-era', era,
      '--header', `Authorization: Bearer ${key}`, ...args],
    { env: { HOME: home } },
  );
  const answerOf = async (...args) => {
    const { code, stdout, stderr } = await inspect(...args);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };

  for (const era of ['legacy', 'auto', 'modern']) {
    await report.check(`inspector ${era}: tools/list`, async () => {
      const { tools } = await answerOf(era, KEY, '--method', 'tools/list');
      assert.deepEqual(tools.map((tool) => tool.name).sort(), wantedTools.map((tool) => tool.name));
    });
    for (const upstream of UPSTREAMS) {
      const call = (tool, ...args) => answerOf(
        era, KEY, '--method', 'tools/call', '--tool-name', `${upstream}__${tool}`, ...args,
      );
      await report.check(`inspector ${era} via ${upstream}: tools/call`, async () => {
        sameResult(await call('echo', '--tool-arg', 'message=hi'), await reference.call('echo', { message: 'hi' }));
        sameResult(await call('get-tiny-image'), await reference.call('get-tiny-image', {}));
      });
    }
    await report.check(`inspector ${era}: an unknown tool fails`, async () => {
      const { code } = await inspect(era, KEY, '--method', 'tools/call', '--tool-name', 'everything__no-such-tool');
      assert.notEqual(code, 0);
    });
    await report.check(`inspector ${era}: a wrong key fails`, async () => {
      const { code, stdout } = await inspect(era, `${KEY}x`, '--method', 'tools/list');
      assert.notEqual(code, 0);
      assert.ok(!stdout.includes('echo'), stdout);
    });
  }

  const bound = full ? ['--load-duration', '20'] : ['--load-requests', '60'];
  await report.check('inspector: a small load without an error', async () => {
    const summary = await answerOf(
      'legacy', KEY, '--method', 'tools/call', '--tool-name', 'everything__echo', '--tool-arg', 'message=hi',
      '--load', '--load-concurrency', '8', ...bound,
    );
    console.log(JSON.stringify(summary));
    assert.equal(summary.errors ?? summary.failed ?? 0, 0);
  }, { within: 60_000 });
}

/** The end: SIGTERM, and what must be gone and must never have been written. */
async function checkEnd(report, gateway) {
  await report.check('SIGTERM ends the gateway and its stdio servers', async () => {
    const stdioServers = childrenOf(gateway.pid);
    assert.ok(stdioServers.length > 0, 'no child process was running');
    assert.equal(await gateway.stop(), 0);
    await wait(100);
    assert.deepEqual(stdioServers.filter(isAlive), []);
  });
  const lines = readFileSync(gateway.logFile, 'utf8').split('\n').filter((line) => line !== '');
  await report.check('the log is one JSON object on each line, away from a terminal', () => {
    assert.ok(lines.length > 0);
    for (const line of lines) assert.equal(typeof JSON.parse(line), 'object', line);
  });
  await report.check('no key is in the log', () => {
    for (const key of [KEY, NARROW_KEY]) assert.ok(!lines.some((line) => line.includes(key)));
  });
}
