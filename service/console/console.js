// The page: which detector is shown, and what of the service is looked up when.

import { ask, askWithJson, counts, problems, readiness, versionKey } from "./api.js";
import { drawHistogram, drawTrend, ratios } from "./charts.js";
import { brief, byId, date, html, percent, size, whole } from "./dom.js";
import { Trial } from "./trial.js";

const ALIAS = "champion";
const POLL_SECONDS = 2;
const POLLS_PER_LISTING = 5;
const SPAN = 300; // seconds that the trends show
const SMOOTHED = 30; // seconds that an outlier rate is taken over

const trial = new Trial();
const memory = new Map(); // by version, what was counted at each poll of the last SPAN seconds
const state = { detectors: [], versions: [], detector: null, previous: null, health: null, trouble: "", turn: 0 };

const path = (name) => `/v1/detectors/${name}`;
const aliasPath = (name) => `${path(name)}/aliases/${ALIAS}`;
const wanted = () => (location.hash.startsWith("#/") ? location.hash.slice(2) : state.detector?.name);
const serving = () => state.versions.find(({ version }) => version === state.detector?.default_version);

function poll(polls = 0) {
  const listing = polls % POLLS_PER_LISTING === 0;
  const looks = document.hidden ? [] : [lookAtHealth(), lookAtCounts(), listing && list()];
  Promise.all(looks).finally(() => setTimeout(poll, POLL_SECONDS * 1000, polls + 1));
}

async function lookAtHealth() {
  state.health = await readiness().catch(() => null);
  if (!unchanged("health", state.health)) showHealth();
}

async function lookAtCounts() {
  const found = await counts().catch(() => new Map());
  const now = Date.now() / 1000;
  for (const [key, count] of found) {
    const kept = (memory.get(key) ?? []).filter(({ time, rows }) => now - time < SPAN + SMOOTHED && rows <= count.rows);
    memory.set(key, [...kept, { ...count, time: now }]);
  }
  showLive();
}

async function list() {
  const turn = ++state.turn;
  const found = await listing().catch(problems((trouble) => ({ trouble })));
  if (turn !== state.turn) return; // it was looked up again meanwhile
  Object.assign(state, found);
  showPage();
}

/** Detectors, and versions of the one that is wanted. */
async function listing() {
  const { detectors } = await ask("/v1/detectors");
  const name = wanted() ?? detectors[0]?.name;
  const detector = detectors.find((one) => one.name === name) ?? null;
  const versions = detector ? (await ask(`${path(name)}/versions`)).versions.reverse() : [];
  const previous = detector && ALIAS in detector.aliases ? await reachedByRollback(detector) : null;
  return { detectors, detector, versions, previous, trouble: "" };
}

/** Version that rolling the alias back would reach, or null. */
async function reachedByRollback({ name, aliases, versions }) {
  const { history } = await ask(aliasPath(name));
  return history.find(({ version }) => version !== aliases[ALIAS] && versions.includes(version))?.version ?? null;
}

function showHealth() {
  const { health } = state;
  const kind = !health ? "away" : health.ready ? "ready" : "waiting";
  byId("health").className = `health ${kind}`;
  byId("health").textContent = { away: "No answer", ready: "Ready", waiting: "Not ready" }[kind];
  byId("store").textContent = health?.store ?? "";
  showTroubles();
}

function showTroubles() {
  const refused = (state.health?.refused ?? []).map(
    ({ detector, version, reason }) => `Version ${version} of ${detector} is refused and does not serve: ${reason}.`,
  );
  const texts = [state.trouble, ...refused].filter(Boolean);
  if (unchanged("troubles", texts)) return;
  byId("troubles").replaceChildren(...texts.map((text) => html("li", {}, text)));
}

function showPage() {
  showTroubles();
  const { detectors, detector, versions, trouble } = state;
  if (unchanged("page", [detectors, detector, versions, state.previous, trouble])) return;
  byId("empty").hidden = detectors.length > 0 || trouble !== "";
  byId("unknown").hidden = detectors.length === 0 || detector !== null;
  byId("detector").hidden = detector === null;
  byId("detectors").replaceChildren(...detectors.map(detectorLink));
  document.title = detector ? `${detector.name} · farfield` : "farfield";
  if (detector) showDetector();
}

function detectorLink({ name, default_version }) {
  const current = name === state.detector?.name && "page";
  const link = html("a", { href: `#/${name}`, "aria-current": current }, name, html("small", {}, `serves version ${default_version}`));
  return html("li", {}, link);
}

function showDetector() {
  const { detector, versions, previous } = state;
  byId("name").textContent = detector.name;
  const why = ALIAS in detector.aliases ? `the ${ALIAS}` : `the latest, as no ${ALIAS} is set`;
  byId("serving").textContent = `Version ${detector.default_version} serves by default: it is ${why}.`;
  byId("versions").replaceChildren(...versions.map(versionRow));
  byId("rollback").disabled = previous === null;
  byId("rollback").title = previous === null ? `${ALIAS} has no earlier version to go back to` : `Back to version ${previous}`;
  trial.show(detector, versions);
  showLive();
}

function versionRow(version) {
  const width = version.levels.reduce((sum, level) => sum + level.width, 0);
  const aliases = version.aliases.map((alias) => html("span", { class: alias === ALIAS ? "badge champion" : "badge" }, alias));
  const promote = html("button", { type: "button", onclick: () => promoted(version.version) }, "Promote");
  const cell = (...content) => html("td", {}, ...content);
  const number = (text) => html("td", { class: "number" }, text);
  return html(
    "tr",
    { "data-version": version.version },
    html("th", { scope: "row" }, String(version.version)),
    cell(...aliases, version.aliases.includes(ALIAS) ? "" : promote),
    cell(version.type),
    cell(`${whole(version.n_fit)} rows`, html("small", { title: version.source.name }, version.source.name)),
    number(`${whole(version.n_calibration)} rows`),
    number(whole(width)),
    number(String(version.alpha)),
    number(size(version.bytes)),
    cell(html("time", { datetime: version.created }, date(version.created))),
  );
}

function promoted(version) {
  const { name, aliases } = state.detector;
  const expected = aliases[ALIAS] ?? 0;
  const from = expected ? `Version ${expected} serves now` : `No ${ALIAS} is set now`;
  return confirmed(`Promote version ${version}?`, `${from}. Version ${version} of ${name} will be checked, and serve from then on.`, () =>
    askWithJson(aliasPath(name), "PUT", { version, expected }),
  );
}

function rolledBack() {
  const { name, aliases } = state.detector;
  const text = `Version ${aliases[ALIAS]} of ${name} serves now. Version ${state.previous} will serve again.`;
  return confirmed(`Roll back to version ${state.previous}?`, text, () => ask(`${aliasPath(name)}:rollback`, { method: "POST" }));
}

/** Do what moves the alias once the user agrees, and say how it went. */
async function confirmed(title, text, move) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "yes") return;
  const tell = ({ version, previous }) => notify(`Version ${version} serves now${previous ? `, and version ${previous} no more` : ""}.`);
  await move().then(tell, problems((text) => notify(text, true)));
  await list();
  byId("notice").focus(); // the button that was pressed may be gone
}

function notify(text, wrong = false) {
  byId("notice").textContent = text;
  byId("notice").classList.toggle("wrong", wrong);
}

function showLive() {
  const version = serving();
  if (!version) return;
  const past = memory.get(versionKey(version.detector, version.version)) ?? [];
  const { rows = 0, outliers = 0, buckets = [] } = past.at(-1) ?? {};
  byId("live-version").textContent = `version ${version.version}`;
  byId("rows").textContent = whole(rows);
  byId("outliers").textContent = whole(outliers);
  byId("rate").textContent = rows ? percent(outliers / rows) : "–";
  byId("accepted").textContent = percent(version.alpha);
  byId("histogram").setAttribute("aria-label", `Histogram of the p-values of ${whole(rows)} rows`);
  byId("quiet").hidden = rows > 0;
  drawHistogram(byId("histogram"), ratios(buckets, version.n_calibration), version.alpha);
  const now = Date.now() / 1000;
  const trend = (value) => past.map((at, index) => ({ age: now - at.time, value: value(at, index) })).filter(({ age }) => age <= SPAN);
  const per = (at, index) => (index ? (at.rows - past[index - 1].rows) / (at.time - past[index - 1].time) : null);
  drawTrend(byId("throughput"), trend(per), { span: SPAN, least: 1 });
  drawTrend(byId("outlier-rate"), trend((at) => rateBefore(past, at)), { span: SPAN, least: 0.01, limit: version.alpha, format: percent });
}

/** Share of outliers among the rows of the SMOOTHED seconds before; null if there were none. */
function rateBefore(past, at) {
  const start = past.find(({ time }) => at.time - time <= SMOOTHED);
  return at.rows > start.rows ? (at.outliers - start.outliers) / (at.rows - start.rows) : null;
}

const shown = new Map();

/** Whether a part of the page shows this already; redrawing it would take the keyboard's focus away. */
function unchanged(part, content) {
  const text = JSON.stringify(content);
  const same = shown.get(part) === text;
  shown.set(part, text);
  return same;
}

byId("rollback").addEventListener("click", rolledBack);
addEventListener("hashchange", () => {
  notify("");
  list();
});
addEventListener("resize", showLive);
poll();
