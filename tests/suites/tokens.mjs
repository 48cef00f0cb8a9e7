// Tokens that are not ours, made by other people's libraries: hostile access tokens at `/mcp` and at introspection (T5), what
// clients sign (T4), proofs of possession (T18), and our own tokens and keys read by two libraries that know nothing of us.
//
//   node tokens.mjs
//
// jose (npm) makes them; jose and Node's own cryptography verify what the gateway signs. Nobody but the gateway has its key,
// so that whatever says something wrong with a right signature is tested beside the code.

import assert from 'node:assert/strict';
import { createHash, createPublicKey, verify as verifySignature } from 'node:crypto';
import http from 'node:http';

import * as jose from 'jose';

import { random, secretFile, startGatekeeper, token } from './gatekeeper.mjs';
import { suite } from './lib.mjs';

const ROBOT_SECRET = `pcs_${random()}`;
const ALGORITHMS = ['RS256', 'ES256', 'EdDSA'];
/**
 * Whether the endpoints verify proofs of possession. As long as they do not, who has to bring one gets nothing, which is
 * checked in place of all that `judgeProofs` has.
 */
const PROOFS_ARE_VERIFIED = true;
const text = new TextEncoder();
const json = (value) => jose.base64url.encode(JSON.stringify(value));

await suite('tokens', async (report) => {
  const strangers = await listenForStrangers();
  for (const algorithm of ALGORITHMS) await judge(report, algorithm, strangers);
  await report.check('no key was fetched from where a token said', () => assert.deepEqual(strangers.asked, []));
  strangers.close();
});

/** Where hostile tokens say that their key is. */
async function listenForStrangers() {
  const asked = [];
  const server = http.createServer((request, response) => {
    asked.push(request.url);
    response.writeHead(200, { 'content-type': 'application/json' }).end('{"keys":[]}');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { asked, url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

async function judge(report, algorithm, strangers) {
  const signer = await jose.generateKeyPair('ES256', { extractable: true });
  const jwks = { keys: [{ ...await jose.exportJWK(signer.publicKey), kid: 'signer', alg: 'ES256', use: 'sig' }] };
  const { gateway, origin } = await startGatekeeper(`tokens-${algorithm.toLowerCase()}`, {
    settings: `
      [auth.tokens]
      algorithm = "${algorithm}"
      [auth.grants]
      client_credentials = true
      [auth.clients.known.robot]
      secret = ${JSON.stringify(`file:${secretFile('robot', ROBOT_SECRET)}`)}
      grant_types = ["client_credentials"]
      key = "test"
      [auth.clients.known.signer]
      jwks = ${JSON.stringify(secretFile('jwks.json', JSON.stringify(jwks)))}
      grant_types = ["client_credentials"]
      key = "test"
      [auth.clients.known.prover]
      secret = ${JSON.stringify(`file:${secretFile('prover', ROBOT_SECRET)}`)}
      grant_types = ["client_credentials"]
      key = "test"
      requires_proof = true
    `,
  });
  const resource = `${origin}/mcp`;
  const basic = (id) => ({ authorization: `Basic ${Buffer.from(`${id}:${ROBOT_SECRET}`).toString('base64')}` });
  const ask = () => token(origin, { grant_type: 'client_credentials', resource }, basic('robot'));
  let good;
  const given = await report.check(`${algorithm}: a robot is given a token`, async () => {
    const answer = await ask();
    assert.equal(answer.status, 200, JSON.stringify(answer));
    good = answer.access_token;
  });
  if (!given) return;

  await report.check(`${algorithm}: jose verifies it with the published keys`, async () => {
    const keys = jose.createRemoteJWKSet(new URL(`${origin}/.well-known/jwks.json`));
    const { payload, protectedHeader } = await jose.jwtVerify(good, keys, {
      issuer: origin, audience: resource, typ: 'at+jwt', algorithms: [algorithm],
      requiredClaims: ['iss', 'sub', 'aud', 'exp', 'iat', 'nbf', 'jti', 'client_id', 'scope'],
    });
    assert.equal(payload.client_id, 'robot');
    assert.equal(protectedHeader.alg, algorithm);
  });
  await report.check(`${algorithm}: Node's own cryptography verifies it with the published key`, async () => {
    const { keys } = await (await fetch(`${origin}/.well-known/jwks.json`)).json();
    const [header, payload, signature] = good.split('.');
    const jwk = keys.find(({ kid }) => kid === JSON.parse(Buffer.from(header, 'base64url')).kid);
    const key = createPublicKey({ key: jwk, format: 'jwk' });
    const hash = algorithm === 'EdDSA' ? null : 'sha256';
    const options = algorithm === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' } : key;
    const isIt = (data) => verifySignature(hash, Buffer.from(data), options, Buffer.from(signature, 'base64url'));
    assert.ok(isIt(`${header}.${payload}`));
    assert.ok(!isIt(`${header}.${payload}x`));
    // RFC 7638: what the key is called is what it is.
    if (jwk.kid.length === 43) assert.equal(await jose.calculateJwkThumbprint(jwk), jwk.kid);
  });

  const call = (credential) => fetch(resource, {
    method: 'POST',
    headers: {
      'content-type': 'application/json', accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/list', ...credential,
    },
    body: JSON.stringify({
      jsonrpc: '2.0', id: 1, method: 'tools/list',
      params: { _meta: {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28', 'io.modelcontextprotocol/clientCapabilities': {},
      } },
    }),
  });
  const introspect = async (about) => {
    const answer = await fetch(`${origin}/oauth2/introspect`, {
      method: 'POST', body: new URLSearchParams({ token: about }), headers: basic('robot'),
    });
    return { status: answer.status, body: await answer.json() };
  };
  await report.check(`${algorithm}: it opens /mcp and is active`, async () => {
    assert.equal((await call({ authorization: `Bearer ${good}` })).status, 200);
    assert.equal((await introspect(good)).body.active, true);
  });

  const corpus = await hostileTokens({ origin, good, algorithm, strangers, other: (await ask()).access_token });
  await report.check(`${algorithm}: there are at least 60 hostile tokens, no two alike`, () => {
    assert.ok(corpus.length >= 60, String(corpus.length));
    assert.equal(new Set(corpus.map(([, hostile]) => hostile)).size, corpus.length);
  });
  const challenges = new Set();
  for (const [what, hostile] of corpus) {
    await report.check(`${algorithm}: ${what} is no token`, async () => {
      const answer = await call({ authorization: `Bearer ${hostile}` });
      await answer.text();
      assert.equal(answer.status, 401);
      const challenge = answer.headers.get('www-authenticate');
      assert.match(challenge, /^Bearer /);
      assert.match(challenge, /resource_metadata="/);
      challenges.add(challenge);
      const about = await introspect(hostile);
      assert.ok(about.status === 200 || about.status === 400, String(about.status));
      if (about.status === 200) assert.deepEqual(about.body, { active: false });
    });
  }
  await report.check(`${algorithm}: all of them are refused in the same words`, () => assert.equal(challenges.size, 1, [...challenges].join('\n')));
  await report.check(`${algorithm}: the good one is still good`, async () => {
    assert.equal((await call({ authorization: `Bearer ${good}` })).status, 200);
  });

  await judgeAssertions(report, { algorithm, origin, resource, signer });
  await judgeProofs(report, { algorithm, origin, resource, call, basic });
  await gateway.stop();
}

// ---- hostile access tokens ------------------------------------------------------------------------------------

async function hostileTokens({ origin, good, algorithm, strangers, other }) {
  const [rawHeader, rawPayload, signature] = good.split('.');
  const header = jose.decodeProtectedHeader(good);
  const claims = jose.decodeJwt(good);
  const { keys } = await (await fetch(`${origin}/.well-known/jwks.json`)).json();
  const jwk = keys.find(({ kid }) => kid === header.kid);
  const publicKey = createPublicKey({ key: jwk, format: 'jwk' });
  const pem = publicKey.export({ type: 'spki', format: 'pem' });
  const mine = Object.fromEntries(await Promise.all(['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'].map(async (alg) => (
    [alg, await jose.generateKeyPair(alg, { extractable: true })]
  ))));
  const signed = async (alg, more = {}, says = {}, key = mine[alg].privateKey) => (
    await new jose.SignJWT({ ...claims, ...says }).setProtectedHeader({ ...header, alg, ...more }).sign(key)
  );
  const hmac = (alg, key, more = {}) => signed(alg, more, {}, key.length > 0 ? key : text.encode('\0'));
  const myJwk = await jose.exportJWK(mine[algorithm].publicKey);
  const corpus = [];
  const add = (what, hostile) => corpus.push([what, hostile]);

  // No signature at all.
  for (const alg of ['none', 'None', 'NONE', 'nOnE']) add(`alg ${alg}`, `${json({ ...header, alg })}.${rawPayload}.`);
  add('alg none with our signature', `${json({ ...header, alg: 'none' })}.${rawPayload}.${signature}`);
  add('an unsecured token', new jose.UnsecuredJWT(claims).encode());
  add('no alg', `${json({ ...header, alg: undefined })}.${rawPayload}.${signature}`);
  add('an empty alg', `${json({ ...header, alg: '' })}.${rawPayload}.${signature}`);
  add('alg that is a list', `${json({ ...header, alg: [algorithm] })}.${rawPayload}.${signature}`);
  add('alg that is null', `${json({ ...header, alg: null })}.${rawPayload}.${signature}`);

  // Our public key taken for a secret (CVE-2015-9235).
  const secrets = {
    'the PEM text': text.encode(pem), 'the PEM text without its last line break': text.encode(pem.trimEnd()),
    'the DER': publicKey.export({ type: 'spki', format: 'der' }), 'the JWK': text.encode(JSON.stringify(jwk)),
    'the modulus or coordinate': Buffer.from(jwk.n ?? jwk.x, 'base64url'), 'the key id': text.encode(header.kid),
    'the issuer': text.encode(origin), 'a single zero': new Uint8Array([0]),
  };
  for (const [what, secret] of Object.entries(secrets)) add(`HS256 with ${what}`, await hmac('HS256', secret));
  for (const alg of ['HS384', 'HS512']) add(`${alg} with the PEM text`, await hmac(alg, text.encode(pem)));

  // Keys of others.
  for (const alg of Object.keys(mine)) add(`${alg} by a stranger under our kid`, await signed(alg));
  add('a stranger with another kid', await signed(algorithm, { kid: 'stranger' }));
  add('a stranger without a kid', await signed(algorithm, { kid: undefined }));
  add('a stranger with an empty kid', await signed(algorithm, { kid: '' }));
  add('an embedded jwk', await signed(algorithm, { jwk: myJwk, kid: undefined }));
  add('an embedded jwk under our kid', await signed(algorithm, { jwk: { ...myJwk, kid: header.kid } }));
  add('jku', await signed(algorithm, { jku: `${strangers.url}/jwks.json` }));
  add('jku at our own address', await signed(algorithm, { jku: `${origin}/.well-known/jwks.json@127.0.0.1` }));
  add('x5u', await signed(algorithm, { x5u: `${strangers.url}/certificate.pem` }));
  add('x5c', await signed(algorithm, { x5c: [jose.base64url.encode('not a certificate')] }));
  for (const kid of ['../../../../../../dev/null', `' UNION SELECT 'key`, `${strangers.url}/key`, '/proc/sys/kernel/randomize_va_space',
    '| sleep 5', `${header.kid}\0`, `${header.kid} `, header.kid.toUpperCase() === header.kid ? `${header.kid}x` : header.kid.toUpperCase()]) {
    add(`HS256 with kid ${JSON.stringify(kid)}`, await hmac('HS256', text.encode('\0'), { kid }));
  }
  for (const kid of [1, null, [header.kid], { a: 1 }]) {
    add(`kid ${JSON.stringify(kid)}`, `${json({ ...header, kid })}.${rawPayload}.${signature}`);
  }

  // Our signature under something else than we signed.
  for (const alg of ['RS256', 'RS384', 'RS512', 'PS256', 'ES256', 'ES384', 'EdDSA', 'Ed25519', algorithm.toLowerCase()].filter((alg) => alg !== algorithm)) {
    add(`alg ${alg} over our signature`, `${json({ ...header, alg })}.${rawPayload}.${signature}`);
  }
  for (const [what, more] of Object.entries({
    'an id token\'s type': { typ: 'JWT' }, 'no type': { typ: undefined }, 'the type of a proof': { typ: 'dpop+jwt' },
    'the type of an assertion': { typ: 'oauth-id-jag+jwt' }, 'crit': { crit: ['exp'], exp: 1 }, 'unknown crit': { crit: ['x'], x: 1 },
    'b64': { b64: false, crit: ['b64'] }, 'a content type': { cty: 'JWT' }, 'zip': { zip: 'DEF' },
  })) add(`${what} over our signature`, `${json({ ...header, ...more })}.${rawPayload}.${signature}`);
  for (const [what, says] of Object.entries({
    'a later end': { exp: claims.exp + 3600 }, 'another subject': { sub: 'user:00000000000000000000000000' },
    'another audience': { aud: [`${origin}/mcp`, 'https://elsewhere.example'] }, 'more scopes': { scope: `${claims.scope} everything` },
    'no end': { exp: undefined }, 'another issuer': { iss: 'https://elsewhere.example' }, 'another client': { client_id: 'signer' },
  })) add(`${what} over our signature`, `${rawHeader}.${json({ ...claims, ...says })}.${signature}`);
  add('the signature of our next token', `${rawHeader}.${rawPayload}.${other.split('.')[2]}`);
  add('the payload of our next token', `${rawHeader}.${other.split('.')[1]}.${signature}`);
  add('a second member of the same name', `${rawHeader}.${jose.base64url.encode(JSON.stringify(claims).replace(/^\{/, '{"sub":"user:x",'))}.${signature}`);

  // Signatures that say nothing (CVE-2022-21449), and what is left of ours.
  add('no signature', `${rawHeader}.${rawPayload}.`);
  for (const bytes of [1, 64, 256]) add(`a signature of ${bytes} zeros`, `${rawHeader}.${rawPayload}.${jose.base64url.encode(new Uint8Array(bytes))}`);
  const turned = Buffer.from(signature, 'base64url');
  turned[turned.length >> 1] ^= 1;
  add('one bit turned', `${rawHeader}.${rawPayload}.${turned.toString('base64url')}`);
  add('a shortened signature', `${rawHeader}.${rawPayload}.${signature.slice(0, -4)}`);
  add('a lengthened signature', `${rawHeader}.${rawPayload}.${signature}AAAA`);
  add('a padded signature', `${rawHeader}.${rawPayload}.${signature}==`);
  add('a padded payload', `${rawHeader}.${rawPayload}=.${signature}`);
  add('plain base64', good.replaceAll('-', '+').replaceAll('_', '/') === good ? `${good}+` : good.replaceAll('-', '+').replaceAll('_', '/'));

  // Other shapes.
  add('two parts', `${rawHeader}.${rawPayload}`);
  add('four parts', `${good}.`);
  add('five parts', `${good}.${signature}.${signature}`);
  add('an empty header', `.${rawPayload}.${signature}`);
  add('an empty payload', `${rawHeader}..${signature}`);
  add('dots', '..');
  add('the same token twice', `${good},${good}`);
  add('a token in quotation marks', `"${good}"`);
  add('a header that is no object', `${json([])}.${rawPayload}.${signature}`);
  add('a payload that is no object', `${rawHeader}.${json('text')}.${signature}`);
  add('a deep payload', `${rawHeader}.${jose.base64url.encode(`${'['.repeat(2000)}${']'.repeat(2000)}`)}.${signature}`);
  add('nine kilobytes', await signed(algorithm, {}, { padding: 'x'.repeat(9 * 1024) }));
  if (algorithm === 'RS256') {
    const encrypted = await new jose.EncryptJWT(claims).setProtectedHeader({ ...header, alg: 'RSA-OAEP-256', enc: 'A256GCM' })
      .encrypt(publicKey);
    add('an encrypted token', encrypted);
  }
  const direct = await new jose.EncryptJWT(claims).setProtectedHeader({ ...header, alg: 'dir', enc: 'A256GCM' })
    .encrypt(createHash('sha256').update(pem).digest());
  add('a token encrypted with our public key as a secret', direct);
  return corpus;
}

// ---- what clients sign (T4) -----------------------------------------------------------------------------------

async function judgeAssertions(report, { algorithm, origin, resource, signer }) {
  const stranger = await jose.generateKeyPair('ES256');
  const now = () => Math.floor(Date.now() / 1000);
  const used = random();
  const assertion = ({ header = {}, says = {}, key = signer.privateKey } = {}) => new jose.SignJWT({
    iss: 'signer', sub: 'signer', aud: origin, iat: now(), exp: now() + 50, jti: random(), ...says,
  }).setProtectedHeader({ alg: 'ES256', kid: 'signer', ...header }).sign(key);
  const present = async (signed, more = {}) => token(origin, {
    grant_type: 'client_credentials', resource, client_id: 'signer',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer', client_assertion: signed, ...more,
  });
  const letIn = async (what, signed) => report.check(`${algorithm}: a client whose assertion ${what} is let in`, async () => {
    const answer = await present(await signed);
    assert.equal(answer.status, 200, JSON.stringify(answer));
  });
  await letIn('is as it should be', assertion());
  await letIn('names us in a list', assertion({ says: { aud: [origin] } }));
  await letIn('has the type of one', assertion({ header: { typ: 'client-authentication+jwt' } }));
  await letIn('is used for the first time', assertion({ says: { jti: used } }));

  const [payload] = [{ iss: 'signer', sub: 'signer', aud: origin, iat: now(), exp: now() + 50, jti: random() }];
  const refused = {
    'is used again': () => assertion({ says: { jti: used } }),
    'is for the token endpoint': () => assertion({ says: { aud: `${origin}/oauth2/token` } }),
    'is for us and others': () => assertion({ says: { aud: [origin, 'https://elsewhere.example'] } }),
    'is for others': () => assertion({ says: { aud: 'https://elsewhere.example' } }),
    'is for the resource': () => assertion({ says: { aud: resource } }),
    'is for us with a slash': () => assertion({ says: { aud: `${origin}/` } }),
    'is for nobody': () => assertion({ says: { aud: undefined } }),
    'has ended': () => assertion({ says: { iat: now() - 120, exp: now() - 60 } }),
    'never ends': () => assertion({ says: { exp: undefined } }),
    'lives for an hour': () => assertion({ says: { exp: now() + 3600 } }),
    'is from the future': () => assertion({ says: { nbf: now() + 600, iat: now() + 600, exp: now() + 640 } }),
    'has no id': () => assertion({ says: { jti: undefined } }),
    'is of another issuer': () => assertion({ says: { iss: 'robot' } }),
    'is about another client': () => assertion({ says: { sub: 'robot' } }),
    'is of another client': () => assertion({ says: { iss: 'robot', sub: 'robot' } }),
    'is signed by a stranger': () => assertion({ key: stranger.privateKey }),
    'brings its key': async () => assertion({ key: stranger.privateKey, header: { jwk: await jose.exportJWK(stranger.publicKey) } }),
    'is not signed': () => new jose.UnsecuredJWT(payload).encode(),
    'is signed with the public key as a secret': async () => assertion({
      header: { alg: 'HS256' }, key: text.encode(await jose.exportSPKI(signer.publicKey)),
    }),
    'has the type of an access token': () => assertion({ header: { typ: 'at+jwt' } }),
    'has the type of a proof': () => assertion({ header: { typ: 'dpop+jwt' } }),
    'has critical extensions': () => assertion({ header: { crit: ['x'], x: 1 } }).catch(() => 'e30.e30.x'),
    'is nonsense': () => 'nonsense',
  };
  for (const [what, make] of Object.entries(refused)) {
    await report.check(`${algorithm}: a client whose assertion ${what} is refused`, async () => {
      const answer = await present(await make());
      assert.equal(answer.status, 401, JSON.stringify(answer));
      assert.equal(answer.error, 'invalid_client');
    });
  }
  await report.check(`${algorithm}: an assertion and a secret are one too many`, async () => {
    const answer = await present(await assertion(), { client_secret: ROBOT_SECRET });
    assert.equal(answer.status, 400, JSON.stringify(answer));
    assert.equal(answer.error, 'invalid_request');
  });
}

// ---- proofs of possession (T18) -------------------------------------------------------------------------------

async function judgeProofs(report, { algorithm, origin, resource, call, basic }) {
  const mine = await jose.generateKeyPair('ES256', { extractable: true });
  const jwk = await jose.exportJWK(mine.publicKey);
  const now = () => Math.floor(Date.now() / 1000);
  const proof = (htm, htu, { header = {}, says = {}, key = mine.privateKey } = {}) => new jose.SignJWT({
    htm, htu, iat: now(), jti: random(), ...says,
  }).setProtectedHeader({ typ: 'dpop+jwt', alg: 'ES256', jwk, ...header }).sign(key);
  const endpoint = `${origin}/oauth2/token`;
  const ask = (proven) => token(
    origin, { grant_type: 'client_credentials', resource }, { ...basic('prover'), ...(proven === undefined ? {} : { dpop: proven }) },
  );
  // A server may want a number of its own in each proof (RFC 9449 § 8); then it says which.
  let nonce;
  const first = await ask(await proof('POST', endpoint));
  if (!PROOFS_ARE_VERIFIED) {
    await report.check(`${algorithm}: who has to prove to have a key gets nothing, since proofs are not verified yet`, () => {
      assert.equal(first.status, 400, JSON.stringify(first));
      assert.equal(first.error, 'invalid_dpop_proof');
    });
    return;
  }
  if (first.error === 'use_dpop_nonce') nonce = first.headers.get('dpop-nonce');
  const fresh = (htm, htu, how = {}) => proof(htm, htu, { ...how, says: { ...(nonce === undefined ? {} : { nonce }), ...how.says } });

  let bound;
  const given = await report.check(`${algorithm}: who proves to have a key is given a token for it`, async () => {
    const answer = nonce === undefined ? first : await ask(await fresh('POST', endpoint));
    assert.equal(answer.status, 200, JSON.stringify(answer));
    assert.equal(answer.token_type.toLowerCase(), 'dpop');
    bound = answer.access_token;
    assert.equal(jose.decodeJwt(bound).cnf.jkt, await jose.calculateJwkThumbprint(jwk));
  });
  if (!given) return;
  const used = await fresh('POST', endpoint);
  await ask(used);
  const stranger = await jose.generateKeyPair('ES256', { extractable: true });
  const bad = {
    'is not there': () => undefined,
    'was used before': () => used,
    'is for another method': () => fresh('GET', endpoint),
    'is for another address': () => fresh('POST', `${origin}/oauth2/revoke`),
    'is for another server': () => fresh('POST', 'https://elsewhere.example/oauth2/token'),
    'is an hour old': () => fresh('POST', endpoint, { says: { iat: now() - 3600 } }),
    'is from the future': () => fresh('POST', endpoint, { says: { iat: now() + 3600 } }),
    'has no id': () => fresh('POST', endpoint, { says: { jti: undefined } }),
    'has no time': () => fresh('POST', endpoint, { says: { iat: undefined } }),
    'is of another type': () => fresh('POST', endpoint, { header: { typ: 'JWT' } }),
    'is signed by another key': () => fresh('POST', endpoint, { key: stranger.privateKey }),
    'brings a private key': async () => fresh('POST', endpoint, { header: { jwk: await jose.exportJWK(mine.privateKey) } }),
    'is not signed': () => `${json({ typ: 'dpop+jwt', alg: 'none', jwk })}.${json({ htm: 'POST', htu: endpoint, iat: now(), jti: random() })}.`,
    'is signed with a secret': () => fresh('POST', endpoint, { header: { alg: 'HS256' }, key: text.encode(JSON.stringify(jwk).padEnd(64)) }),
    'is nonsense': () => 'nonsense',
  };
  for (const [what, make] of Object.entries(bad)) {
    await report.check(`${algorithm}: a proof that ${what} is refused`, async () => {
      const answer = await ask(await make());
      assert.equal(answer.status, 400, JSON.stringify(answer));
      assert.ok(['invalid_dpop_proof', 'use_dpop_nonce', 'invalid_request'].includes(answer.error), answer.error);
    });
  }
  const ath = createHash('sha256').update(bound).digest('base64url');
  const present = async (proven, scheme = 'DPoP') => {
    const answer = await call({ authorization: `${scheme} ${bound}`, ...(proven === undefined ? {} : { dpop: proven }) });
    const challenge = answer.headers.get('www-authenticate') ?? '';
    const wants = answer.headers.get('dpop-nonce');
    await answer.text();
    return { status: answer.status, challenge, wants };
  };
  let there;
  const at = (how = {}) => fresh('POST', resource, { ...how, says: { ath, ...(there === undefined ? {} : { nonce: there }), ...how.says } });
  await report.check(`${algorithm}: the token opens /mcp together with a proof`, async () => {
    let answer = await present(await at());
    if (answer.status === 401 && answer.wants !== null) {
      there = answer.wants;
      answer = await present(await at());
    }
    assert.equal(answer.status, 200, answer.challenge);
  });
  for (const [what, make, scheme] of [
    ['no proof', () => undefined],
    ['no proof, as a bearer token', () => undefined, 'Bearer'],
    ['a proof, as a bearer token', () => at(), 'Bearer'],
    ['a proof for no token', () => at({ says: { ath: undefined } })],
    ['a proof for another token', () => at({ says: { ath: random() } })],
    ['a proof by another key', async () => at({ key: stranger.privateKey, header: { jwk: await jose.exportJWK(stranger.publicKey) } })],
    ['a proof for another address', () => fresh('POST', `${origin}/mcp/up`, { says: { ath } })],
  ]) {
    await report.check(`${algorithm}: the token does not open /mcp with ${what}`, async () => {
      assert.equal((await present(await make(), scheme)).status, 401);
    });
  }
}
