// The settings of client programs, as the gateway makes them for `roundhouse connect` too.

import { ask, base, key } from "./api.js";
import { byId, copy, el, say } from "./dom.js";

const PLAIN = /^[A-Za-z][\w.~+/=-]*$/; // a key that means itself in JSON, YAML, TOML and a shell

let answer = null;

function show() {
  const one = answer?.clients.find((client) => client.name === byId("client").value);
  if (!one) {
    for (const part of ["client-text", "client-file", "client-advice"]) say(byId(part), "");
    return;
  }
  const mine = key.get() || "none";
  const filled = byId("with-key").checked && PLAIN.test(mine) ? mine : key.get() ? answer.key : "none";
  const address = base.replace(/\/$/, "");
  say(byId("client-text"), one.text.replaceAll(answer.address, address).replaceAll(answer.key, filled));
  say(byId("client-file"), one.file ? `In ~/${one.file}; then run ${one.run}` : "A command:");
  const unfit = byId("with-key").checked && !PLAIN.test(mine) ? "This key has characters that want quotes: put it in by hand. " : "";
  say(byId("client-advice"), unfit + one.advice);
}

async function load() {
  const model = byId("client-model").value;
  answer = await ask(`console/api/clients${model ? `?model=${encodeURIComponent(model)}` : ""}`);
  if (!byId("client").options.length) {
    byId("client").append(...answer.clients.map((one) => el("option", { value: one.name }, one.name)));
  }
  show();
}

/** Shows the settings for the models that are listed; `failed` is told of an error. */
export function offerSettings(rows, failed) {
  const select = byId("client-model");
  const ids = [...rows].sort((a, b) => b.capabilities.includes("chat") - a.capabilities.includes("chat")).map((row) => row.id);
  if (JSON.stringify(ids) === select.shownIds) return;
  select.shownIds = JSON.stringify(ids);
  const before = select.value;
  select.replaceChildren(...ids.map((id) => el("option", { value: id }, id)));
  if (ids.includes(before)) select.value = before;
  load().catch(failed);
}

/** Connects the controls; called once. */
export function startSettings(failed) {
  byId("client").addEventListener("change", show);
  byId("with-key").addEventListener("change", show);
  byId("client-model").addEventListener("change", () => load().catch(failed));
  byId("copy-client").addEventListener("click", (event) => copy(event.target, byId("client-text")));
}

/** Forgets what was shown to the last caller. */
export function clearSettings() {
  answer = null;
  byId("client-model").shownIds = "";
  byId("client-model").replaceChildren();
  byId("client").replaceChildren();
  byId("with-key").checked = false;
  show();
}
