// Signing in with the identity provider: authorization code with PKCE (RFC 7636), without a secret. The gateway verifies
// the token that comes of it; here is only seen to it that it answers what this tab has asked.

import { ApiError, ask, base } from "./api.js";

const KEPT = "roundhouse.sign-in";
const home = `${base}console`;

const encoded = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const random = () => encoded(crypto.getRandomValues(new Uint8Array(32)));
const isToken = (text) => typeof text === "string" && /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text);

function claimsOf(token) {
  const text = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (one) => one.charCodeAt(0))));
}

const problem = (text) => new ApiError(0, "", text, "");

async function fetched(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "omit", redirect: "error", signal: AbortSignal.timeout(20_000), ...options });
  } catch {
    throw problem(`The identity provider does not let this page ask ${new URL(url).origin}, or cannot be reached.`);
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw problem(`The identity provider refuses: ${said.error_description ?? said.error ?? answer.status}.`);
  return said;
}

/** The provider that the gateway names, as `issuer` and `client_id`; null where there is none. */
export async function provider() {
  const said = await ask("console/api/sign-in");
  return said.issuer ? said : null;
}

/** Leaves the page for the provider's. */
export async function begin({ issuer, client_id }) {
  if (!crypto.subtle) throw problem("Signing in works over https, or on this machine, alone.");
  const at = await fetched(`${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`);
  if (at.issuer !== issuer) throw problem("The identity provider calls itself something else than the gateway does.");
  const secure = new URL(at.authorization_endpoint).protocol === "https:" || new URL(issuer).protocol === "http:";
  if (!secure) throw problem("The identity provider asks for passwords without https.");
  const kept = { issuer, client_id, token_endpoint: at.token_endpoint, state: random(), nonce: random(), verifier: random() };
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  const challenge = encoded(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(kept.verifier))));
  const url = new URL(at.authorization_endpoint);
  const asked = {
    response_type: "code", client_id, redirect_uri: home, scope: "openid", state: kept.state, nonce: kept.nonce,
    code_challenge: challenge, code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  location.assign(url);
}

/** The tokens that the provider gives for the code that it has sent the browser back with; none where it has not. */
export async function finish() {
  const said = new URLSearchParams(location.search);
  if (!said.has("code") && !said.has("error")) return [];
  history.replaceState(null, "", home);
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  sessionStorage.removeItem(KEPT);
  if (kept === null || said.get("state") !== kept.state || (said.get("iss") ?? kept.issuer) !== kept.issuer) {
    throw problem("This tab has not asked for what the identity provider answers. Sign in again.");
  }
  if (said.has("error")) throw problem(`The identity provider says: ${said.get("error_description") ?? said.get("error")}.`);
  const body = new URLSearchParams({
    grant_type: "authorization_code", code: said.get("code"), redirect_uri: home, client_id: kept.client_id,
    code_verifier: kept.verifier,
  });
  const tokens = await fetched(kept.token_endpoint, { method: "POST", body });
  if (!isToken(tokens.id_token) || claimsOf(tokens.id_token).nonce !== kept.nonce) {
    throw problem("The identity provider's answer is not for this sign-in. Sign in again.");
  }
  return [tokens.access_token, tokens.id_token].filter(isToken);
}
