// Public MCP clients against a running gateway, with public servers and our fixture behind it: the official server-everything
// over streamable HTTP, over HTTP+SSE and over stdio, server-filesystem, and the fixture in each era. What a client gets
// through the gateway must equal what it gets from the server directly.
//
//   node clients.mjs               starts the servers and the gateway
//   node clients.mjs --full        long forms as well
//   node clients.mjs --sign-in     only those that sign in
//
// Byte-for-byte comparison and mixed revisions belong to the Rust suites; here other people's clients judge.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import {
  built, childrenOf, freePort, installed, isAlive, relay, run, scratch, start, startGateway, suite, toml, until,
} from './lib.mjs';
import { checkContent, checkNotices, checkQuestions, rememberer } from './features.mjs';
import { connectV1, connectV1Sse, connectV1Stdio, connectV2, identity } from './peers.mjs';
import { checkSignIn } from './sign-in.mjs';

const full = process.argv.includes('--full');

const KEY = 'pk_clients-suite-full-access-000000000000000';
const NARROW_KEY = 'pk_clients-suite-echo-only-00000000000000000';
const INVALID_PARAMS = -32602;
/** Of revisions before 2026-07-28. SDK v2 reads it as the code of its successor. */
const RESOURCE_NOT_FOUND = -32002;

const everything = installed('@modelcontextprotocol/server-everything/dist/index.js');
const filesystem = installed('@modelcontextprotocol/server-filesystem/dist/index.js');
const inspector = installed('@modelcontextprotocol/inspector/clients/launcher/build/index.js');
const mcpRemote = installed('mcp-remote/dist/proxy.js');

/** The same server over three transports. */
const UPSTREAMS = ['everything', 'everything-sse', 'everything-stdio'];
const OTHERS = ['files', 'fixture-legacy', 'fixture-modern'];

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

/** mcp-remote makes a stdio server of an HTTP server; in `auto` it makes one with sessions of one without. */
const remote = (...options) => (url, headers = {}, how = {}) => {
  const given = Object.entries(headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]);
  const command = [process.execPath, mcpRemote, url, '--transport', 'http-only', '--allow-http', '--silent', ...given];
  return connectV1Stdio([...command, ...options], { PATH: process.env.PATH, MCP_REMOTE_CONFIG_DIR: scratch() }, how);
};

/** In `auto` it cannot send its client to a page. */
const REMOTES = [
  { title: 'mcp-remote', connect: remote(), pages: true },
  { title: 'mcp-remote auto', connect: remote('--protocol', 'auto'), pages: false },
];

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
  if (process.argv.includes('--sign-in')) return await checkSignIn(report);
  const servers = await startServers();
  const { gateway, url, sent } = await startBefore(servers);
  const reference = await connectV1(servers.everything);
  const tools = await reference.tools();
  const wantedTools = UPSTREAMS
    .flatMap((upstream) => tools.map((tool) => ({ ...tool, name: `${upstream}__${tool.name}` })))
    .sort(byName);

  await report.check('all upstreams are listed soon after the gateway is ready', () => until(
    'every tool is listed', async () => {
      const client = await connectV1(url, bearer(KEY));
      const names = (await client.tools()).map((tool) => tool.name);
      await client.close();
      return names.filter(isEverythings).length === wantedTools.length
        && OTHERS.every((upstream) => names.some((name) => name.startsWith(`${upstream}__`)));
    }, 20_000,
  ));

  for (const peer of PEERS) await checkPeer(report, peer, { url, reference, wantedTools, sent });
  await checkFeatures(report, { url, servers, reference });
  await checkFiles(report, { url, folder: servers.folder });
  await checkRemotes(report, { url, servers });
  await checkKeys(report, { url, sent });
  await checkInspector(report, { url, servers, reference, wantedTools });
  await reference.close();
  await checkSignIn(report);
  await checkEnd(report, gateway);
});

/** Starts the servers that are reached over HTTP. The others are the gateway's children. */
async function startServers() {
  const ready = (name, running, url) => until(`${name} listens`, async () => {
    running.assertRunning();
    const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await answer.body?.cancel();
    return true;
  });
  const listen = async (name, command, endpoint, env = {}) => {
    const port = await freePort();
    const running = start(`clients-${name}`, command(String(port)), { env: { PORT: String(port), ...env } });
    const url = `http://127.0.0.1:${port}${endpoint}`;
    await ready(name, running, url);
    return url;
  };
  const everythingOver = (transport) => () => [process.execPath, everything, transport];
  const fixture = (...options) => (port) => [built('fixture-upstream'), 'http', port, ...options];
  const folder = path.join(realpathSync(scratch()), 'files');
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'note.txt'), 'a note \u{1F3F0}\n');
  return {
    everything: await listen('server-everything', everythingOver('streamableHttp'), '/mcp'),
    'everything-sse': await listen('server-everything-sse', everythingOver('sse'), '/sse'),
    'fixture-legacy': await listen('fixture-legacy', fixture('--legacy'), '/mcp'),
    'fixture-modern': await listen('fixture-modern', fixture('--modern'), '/mcp'),
    folder,
  };
}

/** Starts the gateway before them. It reaches one through a relay, which remembers what was sent. */
async function startBefore(servers) {
  const [relayPort, gatewayPort] = [await freePort(), await freePort()];
  const sent = [];
  await relay({ port: relayPort, target: servers.everything, seen: (headers, body) => sent.push({ headers, body }) });
  const origin = `http://127.0.0.1:${gatewayPort}`;
  const gateway = await startGateway('clients-gateway', `
    public_url = ${toml(origin)}
    data_dir = ${toml(scratch())}
    [listen]
    public = ${toml(`127.0.0.1:${gatewayPort}`)}
    admin = "off"
    [store]
    url = "memory:"
    [mcp]
    legacy_sse = true
    [upstreams.everything]
    transport = "streamable-http"
    url = ${toml(`http://127.0.0.1:${relayPort}/mcp`)}
    [upstreams.everything-sse]
    transport = "streamable-http"
    url = ${toml(servers['everything-sse'])}
    protocol = "sse"
    [upstreams.everything-stdio]
    transport = "stdio"
    command = ${toml([process.execPath, everything, 'stdio'])}
    [upstreams.files]
    transport = "stdio"
    command = ${toml([process.execPath, filesystem, servers.folder])}
    [upstreams.fixture-legacy]
    transport = "streamable-http"
    url = ${toml(servers['fixture-legacy'])}
    [upstreams.fixture-modern]
    transport = "streamable-http"
    url = ${toml(servers['fixture-modern'])}
    [keys.test]
    secret = "env:PORTCULLIS_TEST_KEY"
    allow = [{ upstream = "*", tools = ["*"] }]
    [keys.narrow]
    secret = "env:PORTCULLIS_NARROW_KEY"
    allow = [{ upstream = "everything", tools = ["echo"] }]
  `, { origin, env: { PORTCULLIS_TEST_KEY: KEY, PORTCULLIS_NARROW_KEY: NARROW_KEY } });
  return { gateway, url: `${origin}/mcp`, sent };
}

function isEverythings(name) {
  return UPSTREAMS.some((upstream) => name.startsWith(`${upstream}__`));
}

function byName(a, b) {
  return a.name < b.name ? -1 : 1;
}

/** One SDK in one of its modes: everything a client does with tools, over all upstream transports. */
async function checkPeer(report, { title, tag, revision, connect }, { url, reference, wantedTools, sent }) {
  // `execution` left the protocol with the modern revision; a client that speaks it does not show the field.
  const known = ({ execution, ...tool }) => (revision < '2026' ? { ...tool, execution } : tool);
  let client;
  const connected = await report.check(`${title}: connects and speaks ${revision}`, async () => {
    client = await connect(url, bearer(KEY));
    assert.equal(client.revision, revision);
  });
  if (!connected) return;

  await report.check(`${title}: lists the tools of all three transports, unchanged but for their names`, async () => {
    const listed = (await client.tools()).filter(({ name }) => isEverythings(name));
    assert.deepEqual(listed.sort(byName).map(known), wantedTools.map(known));
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

/** Everything besides tools, at the endpoint of one upstream, where its names and URIs are its own. */
async function checkFeatures(report, { url, servers, reference }) {
  const ofEverything = rememberer(reference);
  const answering = {
    'fixture-legacy': await connectV1(servers['fixture-legacy'], {}, { answers: true }),
    'fixture-modern': await connectV2({ pin: '2026-07-28' })(servers['fixture-modern'], {}, { answers: true }),
  };
  const ofFixture = Object.fromEntries(Object.entries(answering).map(([name, client]) => [name, rememberer(client)]));

  for (const { title: peer, tag, connect } of PEERS) {
    for (const upstream of UPSTREAMS) {
      const open = () => connect(`${url}/${upstream}`, bearer(KEY));
      await withClient(report, `${peer} via ${upstream}`, open, (title, client) => (
        checkContent(report, { title, client, direct: ofEverything, same: sameResult, of: 'everything' })
      ));
    }
    for (const upstream of ['fixture-legacy', 'fixture-modern']) {
      const open = () => connect(`${url}/${upstream}`, bearer(KEY), { answers: true });
      await withClient(report, `${peer} via ${upstream}`, open, async (title, client) => {
        const scene = { title, client, direct: ofFixture[upstream], same: sameResult, of: 'fixture' };
        await checkContent(report, scene);
        await checkQuestions(report, scene);
        await checkNotices(report, scene);
        await report.check(`${title}: a resource that is not there is the error of its revision`, () => (
          refusedWith(tag === 'v1' ? RESOURCE_NOT_FOUND : INVALID_PARAMS, client.read('test://nothing-here'))
        ));
        await report.check(`${title}: a call whose connection ends is answered`, async () => {
          const [{ text }] = (await client.call('test_reconnection', {})).content;
          assert.match(text, /taken up again/);
        });
      });
    }
  }
  // The one that speaks no streamable HTTP.
  const sse = () => connectV1Sse(url.replace(/mcp$/, 'sse'), bearer(KEY));
  await withClient(report, 'SDK v1 over HTTP+SSE', sse, async (title, client) => {
    await report.check(`${title}: lists and calls tools`, async () => {
      assert.ok((await client.tools()).some(({ name }) => name === 'everything__echo'));
      const args = { message: 'over an event stream' };
      sameResult(await client.call('everything__echo', args), await reference.call('echo', args));
    });
    await report.check(`${title}: progress arrives`, async () => {
      const progress = [];
      const args = { duration: 0.4, steps: 4 };
      await client.call('everything__trigger-long-running-operation', args, {
        onprogress: ({ progress: done }) => progress.push(done),
      });
      // Over this transport the SDK drops what arrives together with the result.
      assert.deepEqual(progress.slice(0, 3), [1, 2, 3]);
    });
  });
  for (const client of Object.values(answering)) await client.close();
}

/** A list's items in an order of their own. */
function inOrder(result) {
  const byText = (a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);
  return Object.fromEntries(Object.entries(result).map(([name, value]) => (
    [name, ['prompts', 'resources', 'resourceTemplates'].includes(name) ? value.sort(byText) : value]
  )));
}

/** Runs checks with a client that connects for them. */
async function withClient(report, title, connect, body) {
  let client;
  const connected = await report.check(`${title}: connects`, async () => {
    client = await connect();
  });
  if (!connected) return;
  await body(title, client);
  await report.check(`${title}: closes`, () => client.close());
}

/** server-filesystem, a program of the gateway's. */
async function checkFiles(report, { url, folder }) {
  const direct = await connectV1Stdio([process.execPath, filesystem, folder], { PATH: process.env.PATH });
  const tools = (await direct.tools()).sort(byName);
  for (const { title: peer, revision, connect } of PEERS) {
    const open = () => connect(`${url}/files`, bearer(KEY));
    await withClient(report, `${peer} via server-filesystem`, open, async (title, client) => {
      const known = ({ execution, ...tool }) => (revision < '2026' ? { ...tool, execution } : tool);
      await report.check(`${title}: lists its tools unchanged`, async () => {
        assert.deepEqual((await client.tools()).sort(byName).map(known), tools.map(known));
      });
      for (const [tool, args] of [
        ['list_allowed_directories', {}],
        ['write_file', { path: path.join(folder, 'written.txt'), content: `by ${peer} \u{1F3F0}` }],
        ['read_text_file', { path: path.join(folder, 'written.txt') }],
        ['read_text_file', { path: path.join(folder, 'note.txt') }],
        ['list_directory', { path: folder }],
        ['read_text_file', { path: '/etc/hostname' }],
      ]) {
        await report.check(`${title}: ${tool} ${path.basename(args.path ?? '')}`, async () => {
          sameResult(await client.call(tool, args), await direct.call(tool, args));
        });
      }
      await report.check(`${title}: what was written is in the file`, () => {
        assert.equal(readFileSync(path.join(folder, 'written.txt'), 'utf8'), `by ${peer} \u{1F3F0}`);
      });
    });
  }
  await direct.close();
}

/** mcp-remote before the gateway; and in its place, since it too makes a server with sessions of one without. */
async function checkRemotes(report, { url, servers }) {
  for (const { title: peer, connect, pages } of REMOTES) {
    for (const upstream of ['fixture-legacy', 'fixture-modern']) {
      const reference = await connectV1(`${url}/${upstream}`, bearer(KEY), { answers: true });
      const direct = rememberer(reference);
      const open = () => connect(`${url}/${upstream}`, bearer(KEY), { answers: true });
      await withClient(report, `${peer} via ${upstream}`, open, async (title, client) => {
        const scene = { title, client, direct, same: sameResult, of: 'fixture', pages };
        await checkContent(report, scene);
        await checkQuestions(report, scene);
      });
      await reference.close();
    }
  }
  const { connect, pages } = REMOTES.at(-1);
  const oracle = () => connect(servers['fixture-modern'], {}, { answers: true });
  await withClient(report, 'mcp-remote auto in place of the gateway', oracle, async (title, remote) => {
    const client = await connectV1(`${url}/fixture-modern`, bearer(KEY), { answers: true });
    const scene = { title, client, direct: rememberer(remote), same: sameResult, of: 'fixture', pages };
    await checkContent(report, scene);
    await checkQuestions(report, scene);
    await client.close();
  });
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
      assert.deepEqual((await client.tools()).map((tool) => tool.name), ['everything__echo']);
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
async function checkInspector(report, { url, servers, reference, wantedTools }) {
  const home = scratch();
  const inspect = (target, era, key, ...args) => run(
    [process.execPath, inspector, '--cli', target, '--transport', 'http', '--protocol-era', era,
      '--header', `Authorization: Bearer ${key}`, ...args],
    { env: { HOME: home } },
  );
  const answerOf = async (target, era, ...args) => {
    const { code, stdout, stderr } = await inspect(target, era, KEY, ...args);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };

  for (const era of ['legacy', 'auto', 'modern']) {
    await report.check(`inspector ${era}: tools/list`, async () => {
      const { tools } = await answerOf(url, era, '--method', 'tools/list');
      const names = tools.map((tool) => tool.name).filter(isEverythings);
      assert.deepEqual(names.sort(), wantedTools.map((tool) => tool.name));
    });
    for (const upstream of UPSTREAMS) {
      await report.check(`inspector ${era} via ${upstream}: tools/call`, async () => {
        const args = ['--method', 'tools/call', '--tool-name', `${upstream}__echo`, '--tool-arg', 'message=hi'];
        sameResult(await answerOf(url, era, ...args), await reference.call('echo', { message: 'hi' }));
      });
    }
    for (const upstream of ['fixture-legacy', 'fixture-modern']) {
      // The server itself is asked in the era that it speaks.
      const own = upstream.slice('fixture-'.length);
      for (const [method, ...args] of [
        ['prompts/list'],
        ['prompts/get', '--prompt-name', 'test_prompt_with_arguments', '--prompt-args', 'arg1=one', 'arg2=two'],
        ['resources/list'],
        ['resources/read', '--uri', 'test://static-binary'],
        ['resources/templates/list'],
      ]) {
        await report.check(`inspector ${era} via ${upstream}: ${method}`, async () => {
          const got = await answerOf(`${url}/${upstream}`, era, '--method', method, ...args);
          const wanted = await answerOf(servers[upstream], own, '--method', method, ...args);
          sameResult(inOrder(got), inOrder(wanted));
        });
      }
    }
    if (era !== 'legacy') {
      for (const upstream of ['fixture-legacy', 'fixture-modern']) {
        await report.check(`inspector ${era} via ${upstream}: all skills are as their digests say`, async () => {
          const { code, stdout, stderr } = await inspect(`${url}/${upstream}`, era, KEY, '--method', 'skills/list', '--verify');
          assert.equal(code, 0, stderr);
          const verdicts = stdout.trim().split('\n').map((line) => JSON.parse(line));
          assert.deepEqual(verdicts.map(({ name, outcome }) => [name, outcome]), [
            ['pdf-processing', 'verified'], ['git-commit', 'verified'],
          ]);
        });
      }
    }
    await report.check(`inspector ${era}: an unknown tool fails`, async () => {
      const args = ['--method', 'tools/call', '--tool-name', 'everything__no-such-tool'];
      assert.notEqual((await inspect(url, era, KEY, ...args)).code, 0);
    });
    await report.check(`inspector ${era}: a wrong key fails`, async () => {
      const { code, stdout } = await inspect(url, era, `${KEY}x`, '--method', 'tools/list');
      assert.notEqual(code, 0);
      assert.ok(!stdout.includes('echo'), stdout);
    });
  }

  const bound = full ? ['--load-duration', '20'] : ['--load-requests', '60'];
  await report.check('inspector: a small load without an error', async () => {
    const summary = await answerOf(
      url, 'legacy', '--method', 'tools/call', '--tool-name', 'everything__echo', '--tool-arg', 'message=hi',
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
