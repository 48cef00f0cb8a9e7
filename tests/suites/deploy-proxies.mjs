// nginx and HAProxy with the files of examples/deployments in front of a gateway with theirs, on loopback: MCP passes unbuffered,
// callers' words about who they are do not, and malformed requests never become two.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import tls from 'node:tls';

import {
  adapted, ask, example, HOST, KEY, listOverHttp2, plainly, session, untilReady, withKey,
} from './deploy-parts.mjs';
import { built, freePort, run, scratch, start, toml, until } from './lib.mjs';

/** How long the fixture takes from its first word to its last, at least (ms). */
const WORK_MS = 100;
/** Another machine, as far as the proxy can see. */
const CALLER = '127.0.0.9';
/** How long an answer is waited for (ms), and another one after it. */
const PATIENCE_MS = 2_000;
const QUIET_MS = 300;

/** The two proxies: how each is told where things are, and started. */
const PROXIES = {
  nginx: {
    ends: 0,
    async start(ports, pem) {
      const dir = scratch();
      const site = path.join(dir, 'portcullis.conf');
      writeFileSync(site, adapted(example('nginx/portcullis.conf'), [
        ['server 127.0.0.1:7400;', `server 127.0.0.1:${ports.gateway};`],
        ['listen 443 ssl', `listen 127.0.0.1:${ports.tls} ssl`],
        ['listen 80;', `listen 127.0.0.1:${ports.plain};`],
        ['/etc/portcullis/tls', pem.dir],
      ]));
      const main = path.join(dir, 'nginx.conf');
      const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((place) => `${place}_temp_path ${dir}/${place};`);
      writeFileSync(main, `
        daemon off;
        ${process.getuid() === 0 ? 'user root;' : ''}
        worker_processes 2;
        pid ${dir}/nginx.pid;
        events {}
        http { access_log off; ${places.join(' ')} include ${site}; }
      `);
      const tested = await run(['nginx', '-t', '-e', 'stderr', '-c', main]);
      assert.equal(tested.code, 0, tested.stderr);
      return start('deploy-nginx', ['nginx', '-e', 'stderr', '-c', main]);
    },
  },
  haproxy: {
    ends: 'SIGTERM',
    async start(ports, pem) {
      const file = path.join(scratch(), 'haproxy.cfg');
      writeFileSync(file, adapted(example('haproxy/haproxy.cfg'), [
        ['server gateway 127.0.0.1:7400', `server gateway 127.0.0.1:${ports.gateway}`],
        ['bind :443 ssl', `bind 127.0.0.1:${ports.tls} ssl`],
        ['bind :80\n', `bind 127.0.0.1:${ports.plain}\n`],
        ['/etc/portcullis/tls', pem.dir],
      ]));
      const tested = await run(['haproxy', '-c', '-f', file]);
      assert.equal(tested.code, 0, tested.stderr);
      return start('deploy-haproxy', ['haproxy', '-db', '-f', file]);
    },
  },
};

export async function checkProxies(report, upstream, pem) {
  for (const [name, proxy] of Object.entries(PROXIES)) {
    const gateway = await startGatewayOf(name, upstream);
    const tap = await startTap(gateway.port);
    const ports = { gateway: tap.port, tls: await freePort(), plain: await freePort() };
    const running = await proxy.start(ports, pem);
    await until(`${name} lets callers in`, async () => {
      running.assertRunning();
      return (await ask({ port: ports.tls, ca: pem.ca, path: '/readyz' })).status === 200;
    });
    const send = (options) => ask({ port: ports.tls, ca: pem.ca, ...options });
    await checkMcp(report, name, { send, ports, pem });
    await checkHeaders(report, name, { send, tap });
    await checkSmuggling(report, name, { send, tap, port: ports.tls, ca: pem.ca });
    await report.check(`${name}: it and the gateway ended when they were told to`, async () => {
      assert.equal(await running.stop(), proxy.ends);
      assert.equal(await gateway.running.stop(), 0);
    });
    tap.close();
  }
}

/** A gateway with the example's configuration, on free ports, which refuses calls that come from CALLER. */
async function startGatewayOf(name, upstream) {
  const port = await freePort();
  const config = adapted(example(`${name}/portcullis.toml`), [
    ['public = "127.0.0.1:7400"', `public = "127.0.0.1:${port}"`],
    ['admin = "127.0.0.1:7401"', 'admin = "off"'],
    ['data_dir = "/var/lib/portcullis"', `data_dir = ${toml(scratch())}`],
    ['"http://127.0.0.1:9000/mcp"', toml(upstream)],
  ]);
  const file = path.join(scratch(), 'portcullis.toml');
  writeFileSync(file, `${withKey(config)}
[policy]
when_all_abstain = "allow"

[[policies]]
name = "where-from"
module = "builtin:cel"
config = { rules = [{ hook = "tool-call", if = "context.remote_ip == '${CALLER}'", then = "deny", code = "from-there" }] }
`);
  const running = start(`deploy-${name}-gateway`, [built('portcullis'), 'serve', '--config', file], { env: { PORTCULLIS_TEST_KEY: KEY } });
  await untilReady(`the gateway of ${name}`, running, port);
  return { running, port };
}

/** Passes bytes on to a port of loopback, and remembers them in each direction until it is told to forget. */
async function startTap(target) {
  const seen = { sent: '', answered: '' };
  const sockets = new Set();
  const server = net.createServer((socket) => {
    const onward = net.connect(target, '127.0.0.1');
    // Questions of a proxy about health come whenever it likes, on connections of their own, and are passed on for nobody.
    let isHealth;
    for (const end of [socket, onward]) {
      sockets.add(end);
      end.on('error', () => {}).on('close', () => {
        sockets.delete(end);
        socket.destroy();
        onward.destroy();
      });
    }
    socket.on('data', (part) => {
      const text = part.toString('latin1');
      isHealth ??= /^(GET|OPTIONS) \/readyz HTTP\/1\.1\r\nHost/i.test(text) && !/^x-forwarded-for:/im.test(text);
      if (!isHealth) seen.sent += text;
    });
    onward.on('data', (part) => {
      if (!isHealth) seen.answered += part.toString('latin1');
    });
    socket.pipe(onward);
    onward.pipe(socket);
  });
  await new Promise((resolve, reject) => server.listen(0, '127.0.0.1', resolve).once('error', reject));
  const forget = () => Object.assign(seen, { sent: '', answered: '' });
  const close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { port: server.address().port, seen, forget, close };
}

async function checkMcp(report, name, { send, ports, pem }) {
  let client;
  await report.check(`${name}: a session begins, and lists tools`, async () => {
    client = await session(send);
    const { result } = await client.call('tools/list');
    assert.ok(result.tools.some((tool) => tool.name === 'notes__test_tool_with_progress'), JSON.stringify(result).slice(0, 300));
  });
  await report.check(`${name}: progress of a call arrives before its end`, async () => {
    const gaps = [];
    // A machine that is busy may show late what came early, but a buffer never lets it through early.
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const params = { name: 'notes__test_tool_with_progress', arguments: {}, _meta: { progressToken: 'deploy' } };
      const { parts, messages } = await client.call('tools/call', params);
      assert.equal(messages.filter(({ method }) => method === 'notifications/progress').length, 3);
      const first = parts.find(({ text }) => text.includes('notifications/progress'));
      gaps.push(Math.round(parts.at(-1).at - first.at));
      if (gaps.at(-1) >= WORK_MS / 2) return;
    }
    assert.fail(`first and last word came ${gaps.join(', ')} ms apart`);
  });
  await report.check(`${name}: HTTP/2 is spoken with callers`, async () => {
    const headers = { ...client.headers };
    const { status, body, alpnProtocol } = await listOverHttp2({ port: ports.tls, ca: pem.ca, headers });
    assert.deepEqual([status, alpnProtocol], [200, 'h2']);
    assert.match(body, /notes__test_simple_text/);
  });
  await report.check(`${name}: discovery of sign-in has the public URL, whatever address the gateway has`, async () => {
    const resource = await send({ path: '/.well-known/oauth-protected-resource/mcp' });
    const server = await send({ path: '/.well-known/oauth-authorization-server' });
    assert.equal(JSON.parse(resource.body).resource, `https://${HOST}/mcp`);
    const metadata = JSON.parse(server.body);
    assert.equal(metadata.issuer, `https://${HOST}`);
    assert.equal(metadata.token_endpoint, `https://${HOST}/oauth2/token`);
    const refused = await send({ method: 'POST', path: '/mcp', headers: { 'content-type': 'application/json' }, body: '{}' });
    assert.equal(refused.status, 401);
    assert.ok(refused.headers['www-authenticate'].includes(`resource_metadata="https://${HOST}/`), refused.headers['www-authenticate']);
  });
  const opened = Object.entries(client.headers).map(([key, value]) => `${key}: ${value}`);
  const long = 'x'.repeat(5 * 1024 * 1024);
  const bodies = {
    'that is announced': head(...opened, `Content-Length: ${long.length}`) + long.slice(0, 65536),
    'in chunks': head(...opened, 'Transfer-Encoding: chunked') + chunk(long) + chunk(''),
  };
  for (const [form, bytes] of Object.entries(bodies)) {
    await report.check(`${name}: a body of 5 MB ${form} is refused`, async () => {
      assert.deepEqual(await raw({ port: ports.tls, ca: pem.ca, bytes }), ['413']);
    });
  }
  await report.check(`${name}: what comes in the clear goes nowhere`, async () => {
    const asked = [await plainly({ port: ports.plain, path: '/mcp' }), await plainly({ port: ports.plain, path: '/' })];
    assert.deepEqual(asked.map(({ status }) => status), [403, 308]);
    assert.match(asked[1].text, new RegExp(`^location: https://${HOST}/\\r$`, 'im'));
  });
}

async function checkHeaders(report, name, { send, tap }) {
  await report.check(`${name}: the gateway is told who calls by the proxy alone`, async () => {
    const client = await session(send);
    tap.forget();
    const claims = {
      'x-forwarded-for': '192.0.2.1', x_forwarded_for: '192.0.2.2', 'x-real-ip': '192.0.2.3', forwarded: 'for=192.0.2.4',
      'x-forwarded-host': 'evil-192.0.2.5', 'x-forwarded-proto': 'gopher-192.0.2.6', via: '1.1 192.0.2.7', 'x-forwarded-port': '1920.2.8',
    };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 'claims', method: 'tools/list', params: {} });
    const answer = await send({ method: 'POST', path: '/mcp', headers: { ...client.headers, ...claims }, body, from: CALLER });
    assert.equal(answer.status, 200, answer.body);
    const head = tap.seen.sent.split('\r\n\r\n')[0];
    assert.ok(!head.includes('192.0.2.') && !head.includes('1920.2.8'), head);
    const told = head.split('\r\n').filter((line) => /^(x-forwarded|forwarded|x-real|via)/i.test(line));
    assert.deepEqual(told.map((line) => line.toLowerCase()), [`x-forwarded-for: ${CALLER}`]);
    assert.match(head, new RegExp(`^host: ${HOST}$`, 'im'));
  });
  await report.check(`${name}: policies see the address of the caller`, async () => {
    const params = { name: 'notes__test_simple_text', arguments: {} };
    const there = await (await session((options) => send({ ...options, from: CALLER }))).call('tools/call', params);
    const here = await (await session(send)).call('tools/call', params);
    assert.deepEqual([there.result.isError === true, here.result.isError === true], [true, false], JSON.stringify(there.result));
  });
}

/** A request that must never be answered: what it is hidden in is one request. */
const HIDDEN = `GET /healthz HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`;
const head = (...lines) => [`POST /mcp HTTP/1.1`, `Host: ${HOST}`, ...lines, '', ''].join('\r\n');
const chunk = (text) => `${text.length.toString(16)}\r\n${text}\r\n`;

/** Requests about whose end two readers could disagree (security rows H3). */
const MALFORMED = {
  'a length that is too short beside chunks': head('Content-Length: 4', 'Transfer-Encoding: chunked') + `0\r\n\r\n${HIDDEN}`,
  'a length over everything beside chunks': head(`Content-Length: ${5 + HIDDEN.length}`, 'Transfer-Encoding: chunked') + `0\r\n\r\n${HIDDEN}`,
  'two lengths that differ': head('Content-Length: 0', `Content-Length: ${HIDDEN.length}`) + HIDDEN,
  'two lengths on one line': head(`Content-Length: 0, ${HIDDEN.length}`) + HIDDEN,
  'a length with a sign': head(`Content-Length: +${HIDDEN.length}`) + HIDDEN,
  'a length in hexadecimal': head(`Content-Length: 0x${HIDDEN.length.toString(16)}`) + HIDDEN,
  'a space before the colon of a length': head(`Content-Length : ${HIDDEN.length}`) + HIDDEN,
  'a length on a folded line': head('X-Fold: a', ` Content-Length: ${HIDDEN.length}`) + HIDDEN,
  'chunks that are named with a tail': head('Transfer-Encoding: xchunked') + `0\r\n\r\n${HIDDEN}`,
  'chunks after another coding': head('Transfer-Encoding: identity, chunked', 'Content-Length: 0') + `0\r\n\r\n${HIDDEN}`,
  'chunks named twice': head('Transfer-Encoding: chunked', 'Transfer-Encoding: identity') + `0\r\n\r\n${HIDDEN}`,
  'a coding behind a vertical tab': head('Transfer-Encoding:\vchunked', `Content-Length: ${HIDDEN.length}`) + HIDDEN,
  'a size of a chunk that is no number': head('Transfer-Encoding: chunked') + `zz\r\n${chunk('')}${HIDDEN}`,
  'a size of a chunk beyond all numbers': head('Transfer-Encoding: chunked') + `fffffffffffffffff\r\n${HIDDEN}`,
  'a chunk without its end of line': head('Transfer-Encoding: chunked') + `1\r\nab\r\n0\r\n\r\n${HIDDEN}`,
  'an extension of a chunk that ends with a bare line feed': head('Transfer-Encoding: chunked') + `2;\nxx\r\n0\r\n\r\n${HIDDEN}`,
  'a bare line feed within a header': `POST /mcp HTTP/1.1\r\nHost: ${HOST}\r\nX-A: b\nTransfer-Encoding: chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'a bare carriage return within a header': `POST /mcp HTTP/1.1\r\nHost: ${HOST}\r\nX-A: b\rTransfer-Encoding: chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'a zero byte in a header': head('X-A: b\0c', `Content-Length: ${HIDDEN.length}`) + HIDDEN,
  'two hosts': head('Host: evil.example', 'Content-Length: 0'),
  'HTTP/1.0 with chunks': head('Transfer-Encoding: chunked').replace('HTTP/1.1', 'HTTP/1.0') + `0\r\n\r\n${HIDDEN}`,
};

/** What a proxy reads as two whole requests, where it is the first that reads: it passes both on in a form that nobody doubts. */
const TWO_FOR_ALL = {
  // The line of a chunk's size ends at a bare line feed. The body goes on with a length.
  nginx: ['an extension of a chunk that ends with a bare line feed'],
  // The same, with new chunks. A folded line is made one line (RFC 9112 §5.2), which names no length.
  haproxy: ['an extension of a chunk that ends with a bare line feed', 'a length on a folded line'],
};
/** A line feed by itself, a folded line, or an extension of a chunk. */
const DOUBTFUL = /[^\r]\n|\n[ \t]|\n[0-9a-f]+;/;

async function checkSmuggling(report, name, { send, tap, port, ca }) {
  await report.check(`${name}: two whole requests on one connection are two for everybody (so the count counts)`, async () => {
    tap.forget();
    const whole = head('Content-Length: 0');
    const answers = await raw({ port, ca, bytes: whole + HIDDEN });
    assert.deepEqual([answers.length, count(tap.seen.answered).length], [2, 2], answers.join());
  });
  for (const [what, bytes] of Object.entries(MALFORMED)) {
    const areTwo = TWO_FOR_ALL[name].includes(what);
    await report.check(`${name}: H3: ${what} is ${areTwo ? 'two requests for everybody' : 'one request at most'}`, async () => {
      tap.forget();
      const answers = await raw({ port, ca, bytes });
      const behind = count(tap.seen.answered);
      const told = `answers ${answers.join()}; of the gateway ${behind.join()}\n${tap.seen.sent}`;
      if (areTwo) {
        assert.deepEqual([answers.length, behind.length, DOUBTFUL.test(tap.seen.sent)], [2, 2, false], told);
      } else {
        assert.ok(answers.length <= 1 && behind.length <= 1, told);
        assert.ok(!answers.includes('200'), `what was hidden was answered: ${told}`);
      }
      // Nothing of it waits for whoever comes next.
      for (let next = 0; next < 3; next += 1) {
        const { body } = await send({ path: '/.well-known/oauth-protected-resource/mcp' });
        assert.equal(JSON.parse(body).resource, `https://${HOST}/mcp`);
      }
    });
  }
}

/** The statuses of the answers in a stream of bytes, without those that announce another one. */
const count = (text) => [...text.matchAll(/HTTP\/1\.[01] (\d{3})/g)].map(([, status]) => status).filter((status) => !status.startsWith('1'));

/** Sends bytes over TLS and returns the statuses of whatever is answered until nothing more comes. */
async function raw({ port, ca, bytes }) {
  const socket = tls.connect({ host: '127.0.0.1', port, ca, servername: HOST, ALPNProtocols: ['http/1.1'] });
  let text = '';
  let last = performance.now();
  let closed = false;
  socket.on('data', (part) => {
    text += part.toString('latin1');
    last = performance.now();
  });
  // A reset is a way to refuse.
  socket.on('error', () => {}).on('close', () => (closed = true));
  await new Promise((resolve) => socket.once('secureConnect', resolve).once('close', resolve));
  socket.write(Buffer.from(bytes, 'latin1'));
  last = performance.now();
  while (!closed && performance.now() - last < (text === '' ? PATIENCE_MS : QUIET_MS)) await wait(20);
  socket.destroy();
  return count(text);
}
