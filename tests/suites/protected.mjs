// MCP upstreams that want a credential of whoever calls, and node-oidc-provider, which others wrote, as the authorization
// server of those that want a token. Its own pages ask for any name; its users are whoever says so.
//
//   node protected.mjs PORT ISSUER-PORT    prints one line when both listen
//
//   /mcp           wants a token for calls; what there is, it tells everybody
//   /closed        wants a token for everything
//   /keyed         wants two headers for calls, and looks at them wherever they are shown
//   /tokens/NAME   for the suite: how many tokens of somebody are good, and how often one was renewed

import http from 'node:http';
import { text } from 'node:stream/consumers';

import Provider, { errors } from 'oidc-provider';

const [port, issuerPort] = process.argv.slice(2).map(Number);
const origin = `http://127.0.0.1:${port}`;
// Another site than that of the gateway, as far as browsers and their cookies are concerned.
const issuer = `http://localhost:${issuerPort}`;

const METADATA = '/.well-known/oauth-protected-resource';
const RESOURCES = [`${origin}/mcp`, `${origin}/closed`];
const SCOPE = 'whoami';
/** Of access tokens, in seconds: most outlive the suite, and those of one person do not. */
const [LIFE, SHORT_LIFE] = [3600, 5];
const HASTY = 'hasty';
/** Where there are two headers. */
const KEYS = { 'x-api-key': /^key-of-(\w+)$/, 'x-workspace': /^(\w+)$/ };

// ---- the authorization server ---------------------------------------------------------------------------------

const provider = new Provider(issuer, {
  cookies: { keys: ['only for tests'] },
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => {
        if (!RESOURCES.includes(resource)) throw new errors.InvalidTarget();
        return { scope: SCOPE, audience: resource, accessTokenFormat: 'opaque' };
      },
    },
    revocation: { enabled: true },
    userinfo: { enabled: false },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: (_, token) => (token.accountId === HASTY ? SHORT_LIFE : LIFE) },
});

/** What was ever given to somebody. */
const given = [];
provider.on('access_token.saved', (token) => given.push(token));
provider.on('refresh_token.saved', (token) => given.push(token));

/** What of it is good, of somebody. */
async function tokensOf(name) {
  const theirs = given.filter(({ accountId }) => accountId === name);
  const found = await Promise.all(theirs.map(({ kind, jti }) => provider[kind].find(jti)));
  const good = (kind) => found.filter((token) => token?.kind === kind && !token.consumed).length;
  const renewed = Math.max(0, ...theirs.map(({ rotations = 0 }) => rotations));
  return { access: good('AccessToken'), refresh: good('RefreshToken'), renewed };
}

// ---- the upstreams --------------------------------------------------------------------------------------------

/** What may be asked for without a credential. `server/discover` is a question of a revision that is not spoken here. */
const OPEN = ['initialize', 'notifications/initialized', 'ping', 'server/discover', 'tools/list'];

/** Who somebody is by their token. `undefined`: it is not good. */
async function byToken({ authorization }, resource) {
  const [scheme, value] = authorization.split(' ');
  const token = scheme.toLowerCase() === 'bearer' ? await provider.AccessToken.find(value) : undefined;
  const isGood = token !== undefined && token.aud === resource && token.scopes.has(SCOPE);
  return isGood ? { subject: token.accountId, scheme } : undefined;
}

/** The same by two headers. */
function byHeaders(headers) {
  const [subject, workspace] = Object.entries(KEYS).map(([name, good]) => good.exec(headers[name] ?? '')?.[1]);
  return subject === undefined || workspace === undefined ? undefined : { subject, workspace };
}

const UPSTREAMS = {
  '/mcp': { shows: ['authorization'], who: (headers) => byToken(headers, `${origin}/mcp`), open: OPEN },
  '/closed': { shows: ['authorization'], who: (headers) => byToken(headers, `${origin}/closed`), open: [] },
  '/keyed': { shows: Object.keys(KEYS), who: byHeaders, open: OPEN },
};

/** Answers one message of MCP 2025-11-25, without sessions. */
function result({ method, params }, caller) {
  switch (method) {
    case 'initialize':
      return { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'protected', version: '1' } };
    case 'ping':
      return {};
    case 'tools/list':
      return { tools: [{ name: 'whoami', description: 'Says as whom it is called', inputSchema: { type: 'object' } }] };
    case 'tools/call':
      return params.name === 'whoami' ? { content: [{ type: 'text', text: JSON.stringify(caller) }] } : undefined;
    default:
      return undefined;
  }
}

async function answer(request, response) {
  const end = (status, body, headers = {}) => response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(body === undefined ? undefined : JSON.stringify(body));
  const { pathname } = new URL(request.url, origin);
  if (pathname.startsWith('/tokens/')) return end(200, await tokensOf(pathname.slice('/tokens/'.length)));
  const resource = `${origin}${pathname.slice(METADATA.length)}`;
  if (pathname.startsWith(METADATA) && RESOURCES.includes(resource)) {
    return end(200, { resource, authorization_servers: [issuer], scopes_supported: [SCOPE] });
  }
  const upstream = UPSTREAMS[pathname];
  if (upstream === undefined) return end(404);
  if (request.method !== 'POST') return end(405, undefined, { allow: 'POST' });
  const message = JSON.parse(await text(request));
  const isShown = upstream.shows.some((name) => request.headers[name] !== undefined);
  const caller = isShown ? await upstream.who(request.headers) : undefined;
  if (caller === undefined && (isShown || !upstream.open.includes(message.method))) {
    const metadata = `resource_metadata="${origin}${METADATA}${pathname}"`;
    const challenge = `Bearer ${isShown ? 'error="invalid_token", ' : ''}${metadata}`;
    return end(401, undefined, upstream.who === byHeaders ? {} : { 'www-authenticate': challenge });
  }
  if (message.id === undefined) return end(202);
  const answered = result(message, caller);
  const said = answered === undefined ? { error: { code: -32601, message: 'not known here' } } : { result: answered };
  return end(200, { jsonrpc: '2.0', id: message.id, ...said });
}

const listening = (server, at) => new Promise((resolve, reject) => server.listen(at, '127.0.0.1', resolve).once('error', reject));
await listening(http.createServer(provider.callback()), issuerPort);
await listening(http.createServer((request, response) => answer(request, response).catch((error) => {
  console.error(error);
  response.destroy();
})), port);
console.log(`listening ${origin} ${issuer}`);
