// The page of the service: what the store holds, how it does, and what is near what.

import { drawLatency, drawMap } from "/draw.js";

const at = (id) => document.getElementById(id);
const REFRESH_MS = 5000;
let current = null; // name of the collection shown, its options
let asked = 0; // counts what was chosen: an answer that comes after the next choice is dropped
let refreshFailed = false;

class Refused extends Error {}

// An int with more digits than a number of this language holds; shown and sent as it came.
class Exact {
  constructor(source) { this.source = source; }
  toString() { return this.source; }
  toJSON() { return JSON.rawJSON(this.source); }
}

function parse(text) {
  return JSON.parse(text, (key, value, context) => (
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
      ? new Exact(context.source) : value));
}

// A browser that does not tell an int as it came has rounded it.
const shownId = (id) => (typeof id === "number" && !Number.isSafeInteger(id) ? `≈ ${id}` : String(id));

async function call(method, path, body) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body });
  if (answer.status === 401) {
    at("key-form").hidden = false;
    throw new Refused("This service needs a key.");
  }
  const told = parse(await answer.text());
  if (!answer.ok) throw new Refused(told.error.message);
  return told;
}

function problem(error) {
  at("problem").hidden = !error;
  at("problem").textContent = error ? error.message : "";
}

async function guarded(work) {
  try {
    await work();
    problem(null);
  } catch (error) {
    problem(error instanceof Refused ? error : new Error(`The service cannot be reached (${error.message}).`));
  }
}

function size(bytes) {
  if (bytes === undefined) return "–";
  let unit = 0;
  while (bytes >= 1000 && unit < 4) { bytes /= 1000; unit++; }
  return `${Number(bytes.toPrecision(3))} ${["bytes", "kB", "MB", "GB", "TB"][unit]}`;
}

const number = (value) => (value === undefined ? "–" : value.toLocaleString("en"));
const path = (name) => `/v1/collections/${encodeURIComponent(name).replaceAll(".", "%2E")}`;

function cell(row, text, numeric) {
  const made = row.insertCell();
  if (text instanceof Node) made.append(text);
  else made.textContent = text;
  if (numeric) made.className = "n";
}

async function showStore() {
  const { collections } = await call("GET", "/v1/collections");
  const rows = await Promise.all(collections.map(async (name) => {
    const [info, { stats }] = await Promise.all([
      call("GET", path(name)), call("GET", `${path(name)}/stats`)]);
    return { info, stats };
  }));
  const focused = document.activeElement?.dataset?.name;
  const body = at("collections").tBodies[0];
  body.replaceChildren();
  for (const { info, stats } of rows) {
    const row = body.insertRow();
    const link = document.createElement("a");
    link.textContent = info.name;
    link.href = `#${encodeURIComponent(info.name)}`;
    link.dataset.name = info.name;
    if (current && current.name === info.name) row.setAttribute("aria-current", "true");
    cell(row, link);
    cell(row, number(stats.rows), true);
    cell(row, number(info.dim), true);
    cell(row, info.metric);
    cell(row, info.tenants ? number(stats.tenants) : "none", true);
    cell(row, size(stats.disk_bytes), true);
    cell(row, size(stats.ram_bytes), true);
    cell(row, stats.codec ?? info.codec);
    if (info.name === focused) link.focus();
  }
  const total = rows.reduce((sum, { stats }) => sum + stats.rows, 0);
  at("summary").textContent =
    `${collections.length} collection${collections.length === 1 ? "" : "s"}, ${number(total)} rows`;
  at("key-form").hidden = true;
  return rows;
}

async function showActivity() {
  const { stats } = await call("GET", "/v1/activity");
  drawLatency(at("latency"), at("latency-text"), stats);
}

function tenantQuery() {
  if (!current.tenants) return "";
  return `?tenant=${encodeURIComponent(at("tenant").value)}`;
}

async function showMap() {
  const mine = asked;
  const canvas = at("map");
  if (current.tenants && !at("tenant").value) {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    at("map-text").textContent = "Each tenant has a clustering of its own; choose one.";
    return;
  }
  const { stats } = await call("GET", `${path(current.name)}/map${tenantQuery()}`);
  if (mine === asked) drawMap(canvas, at("map-text"), stats);
}

async function showTenant() {
  if (!current.tenants || !at("tenant").value) return;
  const { count } = await call("POST", `${path(current.name)}/count${tenantQuery()}`, "{}");
  at("tenant-count").textContent = `${number(count)} row${count === 1 ? "" : "s"}`;
}

async function showCollection(name) {
  const mine = ++asked;
  const [info, { stats }] = await Promise.all([
    call("GET", path(name)), call("GET", `${path(name)}/stats`)]);
  if (mine !== asked) return;
  current = info;
  at("one").hidden = false;
  at("one-title").textContent = name;
  at("hits").replaceChildren();
  at("took").textContent = "";
  at("tenant-row").hidden = !info.tenants;
  at("tenant-count").textContent = "";
  if (info.tenants) {
    const { tenants } = await call("GET", `${path(name)}/tenants`);
    if (mine !== asked) return;
    at("tenants").replaceChildren(...tenants.slice(0, 1000).map((one) => new Option(one, one)));
    at("tenant").value = tenants[0] ?? "";
    await showTenant();
    if (mine !== asked) return;
  }
  const body = at("calibration").tBodies[0];
  body.replaceChildren();
  const efforts = stats.calibration?.efforts ?? [];
  const step = Math.max(1, Math.ceil(efforts.length / 14));
  efforts.filter((_, i) => i % step === 0 || i === efforts.length - 1).forEach((effort) => {
    const row = body.insertRow();
    cell(row, effort.recall.toFixed(3), true);
    cell(row, number(effort.probes), true);
    cell(row, effort.bound, true);
    cell(row, effort.spread < 1e6 ? effort.spread : "any", true);
  });
  at("calibration").hidden = !efforts.length;
  at("calibration-note").textContent = efforts.length
    ? `Measured: ${stats.calibration.note || "on rows of the collection"}.`
    : info.tenants ? "Each tenant is measured when its rows are divided."
      : "Nothing was measured: all rows are looked at.";
  await showMap();
}

// Text for JSON: an id keeps its digits, however many there are.
function ids(text) {
  return /^\d+$/.test(text) ? [text, JSON.stringify(text)] : [JSON.stringify(text)];
}

async function vectorOf(text) {
  let failure;
  for (const id of ids(text)) {
    try {
      const answer = await call("POST", `${path(current.name)}/vectors${tenantQuery()}`, `{"ids": [${id}]}`);
      return answer.vectors[0];
    } catch (error) {
      failure ??= error;
      if (!(error instanceof Refused)) throw error;
    }
  }
  throw failure;
}

async function ask() {
  const text = at("question").value.trim();
  const isVector = text.startsWith("[");
  let vector;
  try {
    vector = isVector ? JSON.parse(text) : await vectorOf(text);
  } catch (error) {
    if (error instanceof SyntaxError) throw new Refused(`The vector is no JSON list: ${error.message}`);
    throw error;
  }
  const k = Number(at("k").value) || 10;
  const question = { vector, k: isVector ? k : k + 1, include: ["metadata", "document"] };
  const where = at("where").value.trim();
  if (where) {
    try {
      question.where = JSON.parse(where);
    } catch (error) {
      throw new Refused(`The filter is no JSON object: ${error.message}`);
    }
  }
  const began = performance.now();
  const { hits } = await call("POST", `${path(current.name)}/query${tenantQuery()}`, JSON.stringify(question));
  const took = performance.now() - began;
  const others = isVector ? hits : hits.filter((hit) => String(hit.id) !== text).slice(0, k);
  at("hits").replaceChildren(...others.map(item));
  at("took").textContent = `${others.length} hit${others.length === 1 ? "" : "s"} in ${took.toFixed(1)} ms`;
}

function item(hit) {
  const made = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = shownId(hit.id);
  const distance = document.createElement("span");
  distance.className = "d";
  distance.textContent = hit.distance.toPrecision(4);
  made.append(name, distance);
  if (hit.document && hit.document !== String(hit.id)) {
    const text = document.createElement("p");
    text.textContent = hit.document.length > 300 ? `${hit.document.slice(0, 300)}…` : hit.document;
    made.append(text);
  }
  if (hit.metadata) {
    const facts = document.createElement("code");
    facts.textContent = JSON.stringify(hit.metadata);
    made.append(facts);
  }
  return made;
}

async function follow() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (!name || name === "main") return;
  await guarded(async () => {
    await showCollection(name);
    await showStore();
  });
  at("one-title").focus();
}

async function start() {
  await guarded(async () => {
    const rows = await showStore();
    if (!location.hash && rows.length) await showCollection(rows[0].info.name);
    await showStore();
    await showActivity().catch(() => { at("latency-text").textContent = "Not for this key."; });
  });
  if (location.hash) await follow();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value.trim());
  at("key").value = "";
  start();
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(ask);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("tenant").addEventListener("change", () => guarded(async () => {
  await showTenant();
  await showMap();
}));
addEventListener("hashchange", follow);
setInterval(async () => {
  if (document.hidden || !at("key-form").hidden) return;
  try {
    await showStore();
    await showActivity().catch(() => {});
    if (refreshFailed) problem(null); // what a question was answered with stays
    refreshFailed = false;
  } catch (error) {
    refreshFailed = true;
    problem(new Error(`The service cannot be reached (${error.message}).`));
  }
}, REFRESH_MS);
start();
