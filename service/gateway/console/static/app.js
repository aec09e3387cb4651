// The page: who uses it, which section shows, and what is asked for every two seconds.

import { ask, key } from "./api.js";
import { byId, say } from "./dom.js";
import { Load, showFleet } from "./fleet.js";
import { clearPlayground, offer, startPlayground } from "./playground.js";
import { begin, finish, provider } from "./sign-in.js";
import { clearSettings, offerSettings, startSettings } from "./settings.js";

const SECTIONS = ["fleet", "playground", "clients"];
const INTERVAL = 2; // seconds between two questions
const LONGEST = 30; // between two that fail
const THEME = "roundhouse.theme";

let load = new Load();
let seesLoad = true; // until the gateway says that this key is not for metrics
let timer = null;
let failures = 0;
let inside = false;
let round = 0; // which caller the answers are for

function announce(text) {
  byId("announcer").textContent = text;
}

function showSection(focus) {
  const name = SECTIONS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "fleet";
  for (const one of SECTIONS) {
    byId(one).hidden = !inside || one !== name;
    const link = document.querySelector(`nav a[href="#${one}"]`);
    if (one === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("nav").hidden = !inside;
  byId("entrance").hidden = inside;
  byId("leave").hidden = !inside || !key.get();
  if (focus) (inside ? byId(`${name}-title`) : byId("key")).focus();
}

/** Asks for a key; `problem` says what was wrong with the last one. */
function showEntrance(problem) {
  inside = false;
  round += 1;
  clearTimeout(timer);
  key.set("");
  load = new Load();
  seesLoad = true;
  byId("banner").hidden = true;
  byId("models").keptNodes?.clear();
  byId("models").replaceChildren();
  for (const name of ["waiting", "errors"]) byId(name).replaceChildren(), (byId(name).shownText = "");
  say(byId("who"), "");
  say(byId("version"), "");
  clearPlayground();
  clearSettings();
  say(byId("key-problem"), problem);
  showSection(true);
}

async function askForLoad() {
  if (!seesLoad) return null;
  try {
    load.take(await ask(`console/api/load?since=${load.since || ":0"}`));
    return load;
  } catch (error) {
    if (error.status !== 403) throw error;
    seesLoad = false;
    return null;
  }
}

async function poll() {
  clearTimeout(timer);
  const mine = round;
  try {
    const [state, samples] = await Promise.all([ask("console/api/state"), askForLoad()]);
    if (mine !== round) return;
    failures = 0;
    byId("banner").hidden = true;
    const entered = !inside;
    inside = true;
    if (entered) showSection(byId("entrance").hidden === false);
    showFleet(state, samples, announce);
    offer(state.models);
    offerSettings(state.models, failed);
    const { caller } = state;
    say(byId("who"), [caller.key && `key ${caller.key}`, `tenant ${caller.tenant}`, caller.all && "sees all tenants"].filter(Boolean).join(" · "));
    say(byId("version"), `Roundhouse ${state.version}`);
  } catch (error) {
    if (mine === round) failed(error);
  }
  if (mine === round && !document.hidden) timer = setTimeout(poll, 1000 * Math.min(LONGEST, INTERVAL * 2 ** failures));
}

function failed(error) {
  if (error.status === 401) {
    showEntrance(key.get() ? "The key is not valid, or not any more." : "");
  } else if (error.status === 403 && !inside) {
    showEntrance(error.message);
  } else {
    failures = Math.min(failures + 1, 5);
    const text = error.name === "TimeoutError" ? "The gateway does not answer." : error.message;
    say(byId("banner"), `${text} What is shown may be old; the next try is in ${Math.min(LONGEST, INTERVAL * 2 ** failures)} s.`);
    byId("banner").hidden = false;
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").value = theme;
}

byId("theme").addEventListener("change", () => {
  localStorage.setItem(THEME, byId("theme").value);
  setTheme(byId("theme").value);
});
byId("entrance-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    say(byId("key-problem"), "A key has printable ASCII characters alone, and no spaces.");
    return;
  }
  key.set(given);
  say(byId("key-problem"), "");
  poll();
});
byId("leave").addEventListener("click", () => showEntrance(""));
addEventListener("hashchange", () => showSection(true));
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : inside && poll()));
/** Comes back from the identity provider, if the browser does, with a token that the gateway takes. */
async function enter() {
  try {
    for (const token of await finish()) {
      key.set(token);
      const refused = await ask("console/api/state").then(() => false, (error) => error.status === 401);
      if (!refused) break;
    }
    await poll();
  } catch (error) {
    showEntrance(error.message);
  }
}

async function offerSignIn() {
  const found = await provider().catch(() => null);
  byId("sign-in-field").hidden = !found;
  if (!found) return;
  say(byId("provider"), new URL(found.issuer).host);
  byId("sign-in").addEventListener("click", () => begin(found).catch((error) => say(byId("key-problem"), error.message)));
}

setTheme(localStorage.getItem(THEME) ?? "auto");
startPlayground();
startSettings(failed);
offerSignIn();
enter();
