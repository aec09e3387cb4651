// What is served and in what state, its load, what waits, and what failed.

import { chart, short } from "./chart.js";
import { byId, el, keep, say } from "./dom.js";

const SLOTS = 150; // samples in five minutes

/** The samples that the page holds: as many as the gateway does, however long the tab is open. */
export class Load {
  since = "";
  interval = 2;
  models = new Map();
  replicas = new Map();

  /** Takes an answer of the gateway, which has the samples that are new. */
  take(answer) {
    if (answer.process.id !== this.since.split(":")[0]) this.models = this.replicas = new Map();
    this.since = answer.since;
    this.interval = answer.interval;
    this.models = append(this.models, answer.models, answer.model_fields);
    this.replicas = append(this.replicas, answer.replicas, answer.replica_fields);
  }
}

function append(known, answered, fields) {
  const result = new Map();
  for (const [name, rows] of Object.entries(answered)) {
    const samples = rows.map((row) => Object.fromEntries(fields.map((field, index) => [field, row[index]])));
    result.set(name, [...(known.get(name) ?? []), ...samples].slice(-SLOTS));
  }
  return result;
}

const words = (state) => state.replaceAll("_", " ");

function seconds(value) {
  return value < 90 ? `${Math.round(value)} s` : value < 5400 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

/** Shows the state of everything; `load` is null where the key may not see it. `announce` is told what has changed. */
export function showFleet(state, load, announce) {
  const served = state.models.filter((row) => !row.alias_of && !row.parent);
  keep(byId("models"), served, (row) => row.id, makeCard, (card, row) => updateCard(card, row, state, load, announce));
  const process = state.process.processes > 1
    ? ` Charts, waiting requests and errors are those of gateway process ${state.process.id}, one of ${state.process.processes}.`
    : "";
  const charts = load ? "" : " This key is not for metrics, so there are no charts.";
  say(byId("fleet-note"), `${served.length} ${served.length === 1 ? "model" : "models"}.${process}${charts}`);
  showTable("waiting", state.waiting, (row) => [
    row.model, row.position, row.tenant, row.priority, row.sequences, seconds(row.refused_in), row.reason,
  ]);
  showTable("errors", state.errors, (row) => [
    new Date(row.time * 1000).toLocaleString(), row.status, row.code, row.model, row.endpoint, row.tenant, row.request_id,
  ]);
}

function showTable(name, rows, cellsOf) {
  byId(`${name}-none`).hidden = rows.length > 0;
  byId(`${name}-table`).hidden = rows.length === 0;
  const lines = rows.map((row) => cellsOf(row).map(String));
  const text = JSON.stringify(lines);
  const body = byId(name);
  if (body.shownText === text) return;
  body.shownText = text;
  body.replaceChildren(
    ...lines.map((cells) => el("tr", {}, ...cells.map((cell, index) => el("td", { className: name === "errors" && index === 6 ? "id" : "" }, cell)))),
  );
}

function makeCard(row) {
  const parts = {
    state: el("span", { className: "state" }),
    about: el("p", { className: "note" }),
    reason: el("p", { className: "note" }),
    adapters: el("ul", { className: "note", "aria-label": `Adapters of ${row.id}` }),
    charts: el("div", { className: "charts" }),
    replicas: el("ul", { className: "replicas", "aria-label": `Replicas of ${row.id}` }),
    requests: chart("Requests", ["running", "waiting"]),
    tokens: chart("Tokens", ["read and generated"], "/s"),
    latency: chart("Time to first token", ["median", "95 %"], " s"),
    errors: chart("Ended", ["requests", "errors"], "", true),
  };
  parts.charts.append(parts.requests.node, parts.tokens.node, parts.latency.node, parts.errors.node);
  const head = el("div", { className: "head" }, el("h2", {}, row.id), parts.state);
  const node = el("section", { className: "card", "aria-label": row.id, id: `model-${row.id}` }, head, parts.about, parts.reason, parts.adapters, parts.charts, parts.replicas);
  return { node, parts, state: null };
}

function updateCard(card, row, state, load, announce) {
  const { parts } = card;
  if (card.state !== null && card.state !== row.state) announce(`${row.id} is ${words(row.state)}`);
  card.state = row.state;
  parts.state.dataset.state = row.state;
  say(parts.state, words(row.state));
  const context = row.context_length ? `, context ${row.context_length}` : "";
  const aliases = row.aliases.length ? `, also ${row.aliases.join(", ")}` : "";
  say(parts.about, `${row.variant} of ${row.family}${context}${aliases}`);
  say(parts.reason, row.reason ?? "");
  const adapters = state.models.filter((one) => one.parent === row.id && !one.alias_of);
  parts.adapters.hidden = adapters.length === 0;
  keep(parts.adapters, adapters, (one) => one.id, makeAdapter, (entry, one) => say(entry.node, adapterText(one)));
  keep(parts.replicas, row.replicas, (one) => one.id, makeReplica, (entry, one) => updateReplica(entry, one, state, load));
  parts.charts.hidden = !load;
  if (!load) return;
  const samples = load.models.get(row.id) ?? [];
  const column = (name) => samples.map((sample) => sample[name]);
  parts.requests.draw([column("running"), column("waiting")], SLOTS);
  parts.latency.draw([column("ttft_p50"), column("ttft_p95")], SLOTS);
  parts.errors.draw([column("ended"), column("errors")], SLOTS);
  parts.tokens.draw([sumOfReplicas(row, load)], SLOTS);
}

function makeAdapter() {
  return { node: el("li", {}) };
}

function adapterText(one) {
  return `adapter ${one.id}: ${words(one.state)}${one.reason ? `, ${one.reason}` : ""}`;
}

function sumOfReplicas(row, load) {
  const lines = row.replicas.map((one) => (load.replicas.get(one.id) ?? []).map((sample) => sample.tokens_per_second));
  const length = Math.max(0, ...lines.map((line) => line.length));
  return Array.from({ length }, (_, index) => {
    const values = lines.map((line) => line[line.length - length + index]).filter((value) => value !== null && value !== undefined);
    return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
  });
}

function makeReplica(one) {
  const parts = {
    state: el("span", { className: "state" }),
    detail: el("p", { className: "note" }),
    progress: el("progress", { "aria-label": `Start of ${one.id}` }),
    phases: el("ol", { className: "phases" }),
    load: chart("Sequences here", ["now"], "", true),
    cache: chart("KV cache", ["used"], " %", true),
  };
  const node = el("li", {}, el("div", { className: "head" }, el("h3", {}, one.id), parts.state), parts.detail, parts.progress, parts.phases, parts.load.node, parts.cache.node);
  return { node, parts };
}

function updateReplica(entry, one, state, load) {
  const { parts } = entry;
  const start = state.starts[one.id];
  const shown = start?.ejected ? "ejected" : one.state;
  parts.state.dataset.state = shown;
  say(parts.state, words(shown));
  const samples = load?.replicas.get(one.id) ?? [];
  say(parts.detail, detailOf(one, start, samples.at(-1)));
  const starting = Boolean(start?.step);
  parts.progress.hidden = parts.phases.hidden = !starting;
  if (starting) {
    parts.progress.max = start.steps;
    parts.progress.value = start.step;
    const done = start.phases.map(([name, took]) => `${name}: ${took} s`);
    keep(parts.phases, [...done, `${start.phase} …`], (text) => text, (text) => ({ node: el("li", {}, text) }), () => {});
  }
  parts.load.node.hidden = parts.cache.node.hidden = samples.length === 0 || one.state !== "ready";
  parts.load.draw([samples.map((sample) => sample.in_flight)], SLOTS);
  parts.cache.draw([samples.map((sample) => (sample.kv_usage === null ? null : sample.kv_usage * 100))], SLOTS);
}

function detailOf(one, start, sample) {
  const said = [];
  if (one.reason && one.state !== "ready") said.push(one.reason);
  if (start?.ejected) said.push("its requests failed: it gets none for a while");
  if (start?.since) said.push(`for ${seconds(Math.max(0, Date.now() / 1000 - start.since))}`);
  if (start?.share) said.push(start.share);
  if (one.restarts) said.push(`restarted ${one.restarts} ${one.restarts === 1 ? "time" : "times"}`);
  if (sample && one.state === "ready") {
    said.push(`${sample.in_flight} of ${sample.limit} sequences`);
    if (sample.tokens_per_second !== null) said.push(`${short(sample.tokens_per_second)} tokens/s`);
  }
  return said.join(" · ");
}
