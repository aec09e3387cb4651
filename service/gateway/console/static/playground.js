// Asks one or two models, and shows how their answers come and where the requests went.

import { ApiError, ask, base, stream } from "./api.js";
import { byId, copy, el, say } from "./dom.js";
import { snippet } from "./snippets.js";

const PATHS = { chat: "v1/chat/completions", completion: "v1/completions", infill: "v1/completions" };
const NEEDS = { chat: "chat", completion: "completion", infill: "infill" };
const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

let halt = null; // ends the answers that come in
let asking = null; // the timer until the next question about routing

/** The body of the present request to a model. */
function bodyFor(model) {
  const kind = chosen("kind");
  const body = { model };
  if (kind === "chat") {
    const system = byId("system").value.trim();
    body.messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: byId("prompt").value }];
  } else {
    body.prompt = byId("prompt").value;
    if (kind === "infill") body.suffix = byId("suffix").value;
  }
  for (const name of NUMBERS) {
    const value = byId(name).valueAsNumber;
    if (!Number.isNaN(value)) body[name] = value;
  }
  if (byId("stop").value) body.stop = byId("stop").value;
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

function models() {
  return [byId("model").value.trim(), byId("other").value.trim()].filter(Boolean);
}

function panel(index) {
  const node = byId(index === 0 ? "answer-a" : "answer-b");
  const part = (name) => node.querySelector(`.${name}`);
  return { node, title: node.querySelector("h2"), route: part("route"), problem: part("problem"), output: part("output"), figures: part("figures") };
}

function problemText(error) {
  const code = error.code ? ` (${error.code})` : "";
  const id = error.requestId ? ` Request id: ${error.requestId}.` : "";
  return error instanceof ApiError ? `${error.message}${code}${id}` : `The page failed: ${error.message}`;
}

/** Says where the request would go, and why. */
async function explain(model, index) {
  const one = panel(index);
  const { stream: _, stream_options: __, ...fields } = bodyFor(model);
  try {
    const route = await ask("v1/route", { ...fields, endpoint: `/${PATHS[chosen("kind")]}` });
    if (models()[index] !== model) return;
    const state = route.state === "ready" ? "ready" : `${route.state.replaceAll("_", " ")}${route.reason ? `: ${route.reason}` : ""}`;
    const ignored = route.ignored_fields.length ? ` Ignored: ${route.ignored_fields.join(", ")}.` : "";
    say(one.route, `“${route.requested}” goes to ${route.model} (${route.variant}, ${route.family}). Why: ${route.route_reason}. It is ${state}.${ignored}`);
    if (!one.problem.ofAnswer) say(one.problem, "");
  } catch (error) {
    if (models()[index] !== model) return;
    say(one.route, "");
    if (!one.problem.ofAnswer) say(one.problem, problemText(error));
  }
}

function explainAll() {
  clearTimeout(asking);
  asking = setTimeout(() => models().forEach(explain), 300);
  for (const index of [0, 1]) panel(index).problem.ofAnswer = false; // it was of another request
}

/** Shows the form's present request: which fields it has, the panels, the snippet. */
function refresh() {
  const kind = chosen("kind");
  byId("system-field").hidden = kind !== "chat";
  byId("suffix-field").hidden = kind !== "infill";
  say(byId("prompt-label"), kind === "chat" ? "Message" : kind === "completion" ? "Text to continue" : "Text before the gap");
  const names = models();
  panel(1).node.hidden = names.length < 2;
  names.forEach((name, index) => say(panel(index).title, name));
  say(byId("snippet"), snippet(chosen("language"), base, PATHS[kind], bodyFor(names[0] ?? "auto")));
}

/** Streams the answer of one model into its panel. */
async function answer(model, index, path, signal) {
  const one = panel(index);
  const began = performance.now();
  const passed = () => (performance.now() - began) / 1000;
  let first = null;
  let usage = null;
  let finish = "";
  let replica = "";
  one.output.replaceChildren();
  one.output.setAttribute("aria-busy", "true");
  say(one.problem, "");
  one.problem.ofAnswer = false;
  say(one.figures, "waiting for the answer");
  const nodes = { thought: null, text: null };
  const add = (kind, text) => {
    if (!text) return;
    first ??= passed();
    if (!nodes[kind]) {
      nodes[kind] = document.createTextNode("");
      one.output.append(kind === "thought" ? el("span", { className: "thought" }, nodes[kind]) : nodes[kind]);
    }
    nodes[kind].appendData(text);
    one.output.scrollTop = one.output.scrollHeight;
  };
  try {
    await stream(path, bodyFor(model), signal, {
      onHead: (headers) => {
        replica = headers.get("x-roundhouse-replica") ?? "";
        if (!replica) return;
        say(one.figures, `${replica} answers`);
      },
      onComment: (text) => text && first === null && say(one.figures, text),
      onEvent: (event) => {
        const choice = event.choices?.[0];
        add("thought", choice?.delta?.reasoning ?? choice?.delta?.reasoning_content);
        add("text", choice?.delta?.content ?? choice?.text);
        finish = choice?.finish_reason ?? finish;
        usage = event.usage ?? usage;
      },
    });
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped by you";
    else {
      finish = "";
      one.problem.ofAnswer = true; // what is said of routing does not take its place
      say(one.problem, problemText(error));
    }
  }
  one.output.setAttribute("aria-busy", "false");
  say(one.figures, figuresOf({ first, total: passed(), usage, finish, replica }));
}

function figuresOf({ first, total, usage, finish, replica }) {
  const said = [];
  if (usage) said.push(`${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`);
  if (first !== null) said.push(`first text after ${first.toFixed(2)} s`);
  said.push(`${total.toFixed(2)} s in all`);
  if (usage && first !== null && total > first && usage.completion_tokens > 1) {
    said.push(`${((usage.completion_tokens - 1) / (total - first)).toFixed(1)} tokens/s`);
  }
  if (replica) said.push(replica);
  if (finish) said.push(finish);
  return said.join(" · ");
}

async function sendAll() {
  if (halt || !byId("ask").reportValidity()) return;
  halt = new AbortController();
  setRunning(true);
  models().forEach(explain);
  const path = PATHS[chosen("kind")];
  await Promise.all(models().map((model, index) => answer(model, index, path, halt.signal)));
  halt = null;
  setRunning(false);
}

/** Says which of the two buttons does something; neither is disabled, for that would take the focus from it. */
function setRunning(running) {
  byId("send").setAttribute("aria-disabled", String(running));
  byId("halt").setAttribute("aria-disabled", String(!running));
}

/** Offers the names that can answer such a request; the first is chosen where none is. */
let rows = [];
export function offer(listed) {
  const changed = JSON.stringify(listed.map((row) => row.id)) !== JSON.stringify(rows.map((row) => row.id));
  rows = listed;
  if (changed) offerNames();
}

function offerNames() {
  const need = NEEDS[chosen("kind")];
  const fitting = rows.filter((row) => row.capabilities.includes(need)).map((row) => row.id);
  byId("names").replaceChildren(...[...fitting, "auto"].map((name) => el("option", { value: name })));
  if (!byId("model").value && fitting.length) byId("model").value = fitting[0];
  refresh();
  explainAll();
}

/** Connects the form; called once. */
export function startPlayground() {
  const form = byId("ask");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sendAll();
  });
  form.addEventListener("input", (event) => {
    if (event.target.name === "kind") {
      byId("model").value = "";
      offerNames();
    }
    refresh();
    explainAll();
  });
  document.querySelectorAll("input[name=language]").forEach((one) => one.addEventListener("change", refresh));
  byId("halt").addEventListener("click", () => halt?.abort());
  document.addEventListener("keydown", (event) => {
    if (byId("playground").hidden) return;
    if (event.key === "Escape") halt?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) sendAll();
  });
  byId("copy-snippet").addEventListener("click", (event) => copy(event.target, byId("snippet")));
}

/** Ends what runs and empties the panels, as the next caller must not see them. */
export function clearPlayground() {
  halt?.abort();
  clearTimeout(asking);
  byId("ask").reset();
  byId("names").replaceChildren();
  rows = [];
  for (const index of [0, 1]) {
    const one = panel(index);
    one.output.replaceChildren();
    for (const part of [one.route, one.problem, one.figures]) say(part, "");
    say(one.title, index === 0 ? "Answer" : "Other answer");
  }
  refresh();
}
