// Public MCP clients that sign in end to end, with a person at Chromium: both TypeScript SDKs in each era, the Rust SDK,
// mcp-remote, the inspector's command line, and eight mcp-remote processes that share one store of credentials.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { EVERYBODY, PERSON, startGatekeeper } from './gatekeeper.mjs';
import { built, freePort, installed, scratch, start, until } from './lib.mjs';
import { identity } from './peers.mjs';
import { Visitor, callback, closeChromium } from './visitor.mjs';

const inspector = installed('@modelcontextprotocol/inspector/clients/launcher/build/index.js');
const mcpRemote = installed('mcp-remote/dist/proxy.js');

/** mcp-remote renews an access token a minute before it ends; so this is how long one is used there. */
const USED_SECONDS = 5;
const MARGIN_SECONDS = 60;
/** As many lives of an access token as an hour has with the default of ten minutes. */
const LIVES = 6;
const PROCESSES = 8;
const SIGN_IN_MS = 60_000;

/** Everything of this file, at a gateway of its own. */
export async function checkSignIn(report) {
  const { gateway, origin, url, operate } = await startGatekeeper('sign-in', {
    settings: `[auth.tokens]\naccess_life = "${MARGIN_SECONDS + USED_SECONDS}s"\n`,
  });
  const scene = {
    url,
    tool: 'up__echo',
    call: (text) => ({ text }),
    said: (result) => result.structuredContent?.text ?? result.content[0].text,
    /** Consents in a browser of one's own. */
    approve: async (address, who = PERSON) => {
      const visitor = await Visitor.arrive({ origin });
      try {
        const sent = await visitor.consent(address, who);
        visitor.assertUntroubled();
        return sent;
      } finally {
        await visitor.leave();
      }
    },
    refuse: async (address) => {
      const visitor = await Visitor.arrive({ origin });
      await visitor.page.goto(address);
      await visitor.press('cancel');
      await visitor.leave();
    },
    grants: async () => (await operate('GET', '/api/v1/grants')).body.grants,
    revokeAll: async () => {
      for (const { id } of (await operate('GET', '/api/v1/grants?limit=200')).body.grants) {
        assert.equal((await operate('DELETE', `/api/v1/grants/${id}`)).status, 204);
      }
    },
  };
  await checkSdks(report, scene);
  await checkRust(report, scene);
  await checkRemote(report, scene);
  await checkInspector(report, scene);
  await checkSharedStore(report, scene);
  await closeChromium();
  await gateway.stop();
}

// ---- the SDKs -------------------------------------------------------------------------------------------------

const SDKS = [
  { title: 'SDK v1', connect: (url, provider) => useSdk(ClientV1, TransportV1, {}, url, provider) },
  ...['legacy', 'auto', { pin: '2026-07-28' }].map((mode) => ({
    title: `SDK v2 ${mode.pin ?? mode}`,
    connect: (url, provider) => useSdk(ClientV2, TransportV2, { versionNegotiation: { mode } }, url, provider),
  })),
];

/** What an application keeps for an SDK, in memory. */
export class Keeper {
  redirects = [];
  saved = [];

  constructor(redirectUrl) {
    this.redirectUrl = redirectUrl;
    this.clientMetadata = {
      client_name: 'The clients suite', redirect_uris: [redirectUrl], token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], application_type: 'native',
    };
  }

  state() { return 'state-of-the-suite'; }
  clientInformation() { return this.information; }
  saveClientInformation(information) { this.information = information; }
  tokens() { return this.saved.at(-1); }
  saveTokens(tokens) { this.saved.push(tokens); }
  redirectToAuthorization(url) { this.redirects.push(url); }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  saveDiscoveryState(state) { this.discovered = state; }
  discoveryState() { return this.discovered; }

  /** What the SDK has found to be worth nothing. */
  invalidateCredentials(what) {
    if (what === 'all' || what === 'tokens') this.saved.push(undefined);
    if (what === 'all' || what === 'client') this.information = undefined;
  }
}

async function useSdk(Client, Transport, options, url, provider) {
  const open = () => new Transport(new URL(url), { authProvider: provider });
  const client = () => new Client(identity, options);
  return {
    /** Begins, and returns the transport that waits for the code. */
    begin: async () => {
      const transport = open();
      await assert.rejects(client().connect(transport), /unauthorized/i);
      return transport;
    },
    connect: async () => {
      const connected = client();
      await connected.connect(open());
      return connected;
    },
  };
}

export async function checkSdks(report, scene) {
  for (const { title, connect } of SDKS) {
    for (const [as, who] of Object.entries(EVERYBODY)) {
      const back = await callback();
      const keeper = new Keeper(back.url);
      let client;
      const signedIn = await report.check(`${title} signs in as ${as}`, async () => {
        const sdk = await connect(scene.url, keeper);
        const transport = await sdk.begin();
        assert.equal(keeper.redirects.length, 1);
        await scene.approve(keeper.redirects[0].href, who);
        const sent = new URL(await back.answer);
        assert.equal(sent.searchParams.get('state'), 'state-of-the-suite');
        // The second SDK compares the issuer as well.
        if (title.startsWith('SDK v2')) await transport.finishAuth(sent.searchParams);
        else await transport.finishAuth(sent.searchParams.get('code'));
        client = await sdk.connect();
      }, { within: SIGN_IN_MS });
      back.close();
      if (!signedIn) continue;
      const call = async (text) => {
        const result = await client.callTool({ name: scene.tool, arguments: scene.call(text) });
        assert.match(JSON.stringify(result), new RegExp(text));
      };
      await report.check(`${title} calls as ${as}`, () => call('hello'));
      await report.check(`${title} renews its token by itself as ${as}`, async () => {
        // As if it had been used up: what it holds opens nothing.
        const before = keeper.saved.length;
        keeper.saved.push({ ...keeper.saved.at(-1), access_token: 'used.up.token' });
        await call('again');
        assert.ok(keeper.saved.length > before + 1, 'it holds no new token');
        assert.equal(keeper.redirects.length, 1, 'somebody had to sign in again');
      });
      await report.check(`${title} closes as ${as}`, () => client.close());
    }
  }
  await report.check('SDK v2 signs in again after its grant was revoked', async () => {
    const back = await callback();
    const keeper = new Keeper(back.url);
    const sdk = await SDKS.at(-1).connect(scene.url, keeper);
    const transport = await sdk.begin();
    await scene.approve(keeper.redirects[0].href);
    await transport.finishAuth(new URL(await back.answer).searchParams);
    const client = await sdk.connect();
    await scene.revokeAll();
    await assert.rejects(client.callTool({ name: scene.tool, arguments: scene.call('x') }), /unauthorized/i);
    assert.equal(keeper.redirects.length, 2);
    back.close();
    await client.close();
  }, { within: SIGN_IN_MS });
}

// ---- the Rust SDK ---------------------------------------------------------------------------------------------

/** A program of ours around rmcp, which signs in, calls, renews its token and calls again. */
export async function checkRust(report, scene) {
  for (const [as, who] of Object.entries(EVERYBODY)) {
    await report.check(`rmcp signs in as ${as}, calls, and renews its token`, async () => {
      const client = start(`rmcp-client-${as.split(' ').at(-1)}`, [built('rmcp-client'), scene.url, scene.tool]);
      const said = () => readFileSync(client.logFile, 'utf8');
      const address = await until('it asks for a person', () => {
        client.assertRunning();
        return /^visit (\S+)\n/m.exec(said())?.[1];
      });
      await scene.approve(address, who);
      await until('it has ended', () => client.how !== undefined);
      assert.equal(client.how, 0, said());
      assert.deepEqual(said().trimEnd().split('\n').slice(1), [
        'called {"text":"hello"}', 'renewed', 'called {"text":"again"}',
      ]);
    }, { within: SIGN_IN_MS });
  }
}

// ---- mcp-remote -----------------------------------------------------------------------------------------------

/** Starts mcp-remote before the gateway, and tells when it wants a person. */
async function startRemote(scene, store, options = []) {
  const command = [mcpRemote, scene.url, '--transport', 'http-only', '--allow-http', '--auth-timeout', '60', ...options];
  const transport = new StdioClientTransport({
    command: process.execPath, args: command, stderr: 'pipe',
    // It opens what this names; the person of the suite has a browser of their own.
    env: { PATH: process.env.PATH, HOME: store, MCP_REMOTE_CONFIG_DIR: store, BROWSER: '/bin/true' },
  });
  const remote = { asked: [], said: '' };
  transport.stderr.setEncoding('utf8').on('data', (text) => {
    remote.said += text;
    remote.asked = [...remote.said.matchAll(/visiting:\s+(\S+)/g)].map(([, address]) => address);
  });
  const client = new ClientV1(identity);
  remote.connected = client.connect(transport, { timeout: SIGN_IN_MS });
  remote.connected.catch(() => {});
  remote.call = async (text) => scene.said(await client.callTool({ name: scene.tool, arguments: scene.call(text) }));
  remote.close = () => client.close();
  return remote;
}

export async function checkRemote(report, scene) {
  for (const [title, options] of Object.entries({ 'mcp-remote': [], 'mcp-remote auto': ['--protocol', 'auto'] })) {
    const store = scratch();
    let remote;
    const signedIn = await report.check(`${title} signs in`, async () => {
      remote = await startRemote(scene, store, options);
      const address = await until('it asks for a person', () => remote.asked[0], SIGN_IN_MS);
      await scene.approve(address);
      await remote.connected;
      assert.match(await remote.call('hello'), /hello/);
    }, { within: SIGN_IN_MS });
    if (!signedIn) console.log(remote?.said);
    await remote?.close();
    if (!signedIn) continue;
    await report.check(`${title} is still signed in when it comes back`, async () => {
      const again = await startRemote(scene, store, options);
      await again.connected;
      assert.match(await again.call('again'), /again/);
      assert.deepEqual(again.asked, []);
      await again.close();
    }, { within: SIGN_IN_MS });
  }
}

/** Many programs of one person on one machine: every one refreshes, none signs in a second time. */
export async function checkSharedStore(report, scene) {
  const store = scratch();
  const remotes = [];
  const signedIn = await report.check(`${PROCESSES} mcp-remote processes share one sign-in`, async () => {
    const first = await startRemote(scene, store);
    remotes.push(first);
    await scene.approve(await until('it asks for a person', () => first.asked[0], SIGN_IN_MS));
    await first.connected;
    for (let n = 1; n < PROCESSES; n += 1) remotes.push(await startRemote(scene, store));
    await Promise.all(remotes.map(({ connected }) => connected));
    for (const remote of remotes.slice(1)) assert.deepEqual(remote.asked, []);
  }, { within: 2 * SIGN_IN_MS });
  if (signedIn) {
    const tokensOf = () => {
      const folder = path.join(store, readdirSync(store).find((name) => name.startsWith('mcp-remote-')));
      const file = readdirSync(folder).find((name) => name.endsWith('_tokens.json'));
      return JSON.parse(readFileSync(path.join(folder, file), 'utf8')).refresh_token;
    };
    const seen = new Set([tokensOf()]);
    const calls = { answered: 0, failed: [] };
    await report.check(`all of them go on calling through ${LIVES} lives of an access token`, async () => {
      const ends = performance.now() + LIVES * (USED_SECONDS + 1) * 1000;
      await Promise.all(remotes.map(async (remote, which) => {
        for (let n = 0; performance.now() < ends; n += 1) {
          try {
            assert.match(await remote.call(`${which}-${n}`), new RegExp(`${which}-${n}`));
            calls.answered += 1;
          } catch (error) {
            calls.failed.push(`${which}: ${error.message}`);
          }
          seen.add(tokensOf());
          await wait(150 + 40 * which);
        }
      }));
      console.log(`${calls.answered} calls, ${seen.size} refresh tokens`);
      assert.deepEqual(calls.failed, []);
      assert.ok(calls.answered > PROCESSES * LIVES, String(calls.answered));
    }, { within: 4 * SIGN_IN_MS });
    await report.check('and the token was renewed in each life', () => assert.ok(seen.size >= LIVES, String(seen.size)));
    await report.check('nobody had to sign in a second time', () => {
      assert.equal(remotes[0].asked.length, 1);
      for (const remote of remotes.slice(1)) assert.deepEqual(remote.asked, []);
    });
  }
  await Promise.all(remotes.map((remote) => remote.close()));
}

// ---- the inspector --------------------------------------------------------------------------------------------

export async function checkInspector(report, scene) {
  for (const era of ['legacy', 'auto', 'modern']) {
    const home = scratch();
    const inspect = async (...args) => {
      const port = await freePort();
      const child = spawn(process.execPath, [
        inspector, '--cli', scene.url, '--transport', 'http', '--protocol-era', era, '--connect-timeout', '60000',
        '--callback-url', `http://127.0.0.1:${port}/oauth/callback`, ...args,
      ], {
        env: {
          PATH: process.env.PATH, HOME: home, MCP_AUTO_OPEN_ENABLED: 'true', MCP_INSPECTOR_SECRET_STORE: 'file',
          BROWSER: '/bin/true', NO_COLOR: '1',
        },
        stdio: ['ignore', 'pipe', 'pipe'], timeout: SIGN_IN_MS, killSignal: 'SIGKILL',
      });
      const said = { stdout: '', stderr: '' };
      for (const stream of ['stdout', 'stderr']) child[stream].setEncoding('utf8').on('data', (text) => (said[stream] += text));
      const ended = new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal)));
      let asked;
      const over = ended.then((code) => ({ code }));
      for (;;) {
        const state = await Promise.race([over, wait(100)]);
        if (state !== undefined) return { ...said, ...state, asked };
        const [, address] = /navigate to: (\S+)/.exec(said.stderr) ?? [];
        if (address !== undefined && asked === undefined) {
          asked = address;
          await scene.approve(address);
        }
      }
    };
    const listed = ['--method', 'tools/list'];
    const signedIn = await report.check(`inspector ${era} signs in`, async () => {
      const { code, stdout, stderr, asked } = await inspect(...listed);
      assert.equal(code, 0, stderr);
      assert.ok(asked !== undefined, 'it asked nobody');
      assert.ok(JSON.parse(stdout).tools.some(({ name }) => name === scene.tool), stdout);
    }, { within: SIGN_IN_MS });
    if (!signedIn) continue;
    await report.check(`inspector ${era} is still signed in when it comes back`, async () => {
      const args = Object.entries(scene.call('again')).map(([name, value]) => `${name}=${value}`);
      const { code, stdout, stderr, asked } = await inspect('--method', 'tools/call', '--tool-name', scene.tool, '--tool-arg', ...args);
      assert.equal(code, 0, stderr);
      assert.equal(asked, undefined);
      assert.match(stdout, /again/);
    }, { within: SIGN_IN_MS });
  }
}
