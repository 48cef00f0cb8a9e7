// An OpenID provider that others wrote, node-oidc-provider, for people who sign in at the gateway through it. Its own pages ask
// for any name; its users are whoever says so.
//
//   node provider.mjs PORT CALLBACK…    prints one line when it listens

import Provider from 'oidc-provider';

const [port, ...callbacks] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'portcullis', client_secret: 'a-secret-of-the-gateway-at-the-provider', redirect_uris: callbacks,
    grant_types: ['authorization_code'], response_types: ['code'], token_endpoint_auth_method: 'client_secret_basic',
  }],
  claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['only for tests'] },
  features: { devInteractions: { enabled: true } },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: `${id} of the provider`, email: `${id}@provider.example`, email_verified: true }),
  }),
  pkce: { required: () => true },
});

provider.listen(Number(port), '127.0.0.1', () => console.log(`listening ${issuer}`));
