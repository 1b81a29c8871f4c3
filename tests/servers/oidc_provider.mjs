// npm's oidc-provider as a SMART Backend Services server on loopback: an authorization server that
// keystay's authors did not write, for the tests to be accepted and refused by.
//
// usage: node oidc_provider.mjs CONFIG.json
//
// CONFIG.json: { "clients": [client metadata, RFC 7591], "scopes": [extra scopes],
//                "initial_access_token": "…" (registration then requires it),
//                "report_assertions": true (one {"event":"assertion",…} with the kid of each) }
//
// Standard output has one JSON object a line: first {"event":"ready","base_url":…}, then one
// {"event":"refused",…} with the real reason for every token request turned down (the client only
// ever reads "client authentication failed"). The process ends when its standard input does.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { errors, Provider } from 'oidc-provider';

const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'];
const SCOPES = ['*', 'Patient', 'Observation'].flatMap((type) =>
  ['read', '*', 'rs', 'r', 's', 'cruds'].map((access) => `system/${type}.${access}`));
const LONGEST_LIFETIME = 300; // seconds, SMART App Launch 2.2.0
const LOOPBACK = new Set(['127.0.0.1', 'localhost', '[::1]']);
const PATIENT = {
  resourceType: 'Patient', id: '123', active: true,
  name: [{ use: 'official', family: 'Example', given: ['Ada', 'Maria'] }],
  gender: 'female', birthDate: '1970-04-01',
};

const say = (event, details) => process.stdout.write(`${JSON.stringify({ event, ...details })}\n`);

// The package checks signature, iss, sub, jti, replay and that exp is ahead. What SMART adds:
function requireSmart(tokenEndpoint, report) {
  return (_ctx, claims, header) => {
    if (report) say('assertion', { client_id: claims.iss, kid: header.kid, at: Date.now() / 1000 });
    const refuse = (reason) => { throw new errors.InvalidClientAuth(reason); };
    const now = Date.now() / 1000;
    if (header.typ !== 'JWT') refuse('typ must be JWT');
    if (typeof header.kid !== 'string') refuse('kid is missing');
    if (claims.aud !== tokenEndpoint) refuse('aud must be the token endpoint, as one string');
    if (!Number.isInteger(claims.exp)) refuse('exp must be an integer');
    if (claims.exp > now + LONGEST_LIFETIME) refuse('exp is more than 300 s ahead');
    if (claims.iat > now) refuse('iat is in the future');
    if (claims.jti.length > 151) refuse('jti is longer than 151 characters');
  };
}

// A guard in the package keeps it from fetching a jwks_uri on loopback, where all of ours are.
function fetchLoopback(url, { dispatcher, ...options }) {
  const { hostname } = new URL(url);
  if (!LOOPBACK.has(hostname)) throw new Error(`only loopback is fetched, not ${hostname}`);
  return globalThis.fetch(url, { ...options, redirect: 'error' });
}

function makeProvider(baseUrl, config) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const provider = new Provider(baseUrl, {
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'provider', use: 'sig', alg: 'ES256' }] },
    clients: config.clients ?? [],
    scopes: [...SCOPES, ...(config.scopes ?? [])],
    clientAuthMethods: ['private_key_jwt'],
    enabledJWA: { clientAuthSigningAlgValues: ALGORITHMS, idTokenSigningAlgValues: ['ES256'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      registration: { enabled: true, initialAccessToken: config.initial_access_token },
      registrationManagement: { enabled: true },
    },
    clientDefaults: {
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'private_key_jwt',
      id_token_signed_response_alg: 'ES256',
    },
    clockTolerance: 0,
    ttl: { ClientCredentials: 300 },
    fetch: fetchLoopback,
    assertJwtClientAuthClaimsAndHeader: requireSmart(`${baseUrl}/token`, config.report_assertions),
  });
  const report = (event) => (ctx, error) => say(event, {
    client_id: ctx.oidc?.entities?.Client?.clientId ?? null,
    error: error.error ?? error.name,
    description: error.error_description ?? null,
    reason: error.cause?.message ?? error.error_detail ?? error.message,
  });
  provider.on('grant.error', report('refused'));
  provider.on('registration_create.error', report('registration_refused'));
  provider.on('server_error', (ctx, error) => say('failed', { path: ctx.path, reason: error.stack }));
  return provider;
}

// FHIR, as little as shows that the token is good: {base}/fhir.
async function answerFhir(provider, baseUrl, request, response) {
  const reply = (status, body, headers = {}) => {
    response.writeHead(status, { 'content-type': 'application/fhir+json', ...headers });
    response.end(JSON.stringify(body));
  };
  const outcome = (code) => ({ resourceType: 'OperationOutcome', issue: [{ severity: 'error', code }] });
  if (request.url === '/fhir/.well-known/smart-configuration') {
    return reply(200, {
      token_endpoint: `${baseUrl}/token`,
      registration_endpoint: `${baseUrl}/reg`,
      token_endpoint_auth_methods_supported: ['private_key_jwt'],
      token_endpoint_auth_signing_alg_values_supported: ALGORITHMS,
      grant_types_supported: ['client_credentials'],
      scopes_supported: SCOPES,
      capabilities: ['client-confidential-asymmetric', 'permission-v1', 'permission-v2'],
      code_challenge_methods_supported: ['S256'],
    }, { 'content-type': 'application/json' });
  }
  const [, value] = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? '') ?? [];
  const token = value && await provider.ClientCredentials.find(value);
  if (!token) return reply(401, outcome('login'), { 'www-authenticate': 'Bearer error="invalid_token"' });
  if (!/system\/(\*|Patient)\.(read|\*|c?ru?d?s?)(?:\s|$)/.test(token.scope ?? '')) return reply(403, outcome('forbidden'));
  if (request.method !== 'GET' || request.url !== '/fhir/Patient/123') return reply(404, outcome('not-found'));
  return reply(200, PATIENT);
}

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const baseUrl = `http://127.0.0.1:${server.address().port}`;
  const provider = makeProvider(baseUrl, config);
  const answerOAuth = provider.callback();
  server.on('request', (request, response) => {
    if (!request.url.startsWith('/fhir/')) return answerOAuth(request, response);
    return answerFhir(provider, baseUrl, request, response).catch((error) => {
      say('failed', { path: request.url, reason: error.stack });
      response.destroy();
    });
  });
  say('ready', { base_url: baseUrl });
});
process.stdin.on('end', () => process.exit(0)).resume();
