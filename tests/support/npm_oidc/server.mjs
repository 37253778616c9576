// An authorization server on a free port of this machine: anybody signs in under any name, any client may register.
// Its word is where oidc-provider is installed. It says its issuer as a line of JSON, then does what each line on
// stdin tells it and answers with a line: {"lifetimes": [seconds, ...]} of the next tokens, {"rotate": true} for a
// new key in the place of the old one. It ends with its stdin.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

console.info = console.warn = console.error;
const library = pathToFileURL(`${process.argv[2]}/oidc-provider/lib/`);
const { default: Provider } = await import(new URL("index.js", library));
const { createMemoryAdapter } = await import(new URL("adapters/memory_adapter.js", library));

const SCOPES = ["read", "chat", "edit", "keys", "admin"];
const adapter = createMemoryAdapter(0);
const cookieKeys = [randomUUID()];
let lifetimes = [];
let lifetime;

function privateKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" };
}

function provider(issuer) {
  const made = new Provider(issuer, {
    adapter,
    jwks: { keys: [privateKey()] },
    cookies: { keys: cookieKeys },
    scopes: [...SCOPES, "openid", "offline_access"],
    pkce: { required: () => true },
    // A person is a name; whoever says it is believed.
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    formats: {
      customizers: {
        jwt: (_ctx, _token, jwt) => {
          lifetime = lifetimes.shift() ?? 3600;
          jwt.payload.exp = jwt.payload.iat + lifetime;
        },
      },
    },
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: true },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_ctx, resource) => ({
          audience: resource,
          scope: SCOPES.join(" "),
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  made.use(async (ctx, next) => {
    await next();
    // An opaque token has the library's lifetime.
    if (ctx.oidc?.route === "token" && ctx.body?.expires_in && lifetime !== undefined) ctx.body.expires_in = lifetime;
    lifetime = undefined;
  });
  return made.callback();
}

const server = createServer((request, response) => answer(request, response));
let answer;
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = provider(issuer);
  const say = (words) => process.stdout.write(`${JSON.stringify(words)}\n`);
  say({ issuer });
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      const told = JSON.parse(line);
      if (told.rotate) answer = provider(issuer);
      lifetimes = told.lifetimes ?? lifetimes;
      say({ done: told });
    })
    .on("close", () => process.exit(0));
});
