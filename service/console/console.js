// The page: which detector is shown, and what of the service is looked up when.

import { ask, found, problems, readiness } from "./api.js";
import { Memory } from "./counts.js";
import { Detectors } from "./detectors.js";
import { byId, clock, html, refill, whole } from "./dom.js";
import { SHOWN as FEATURES, drawDrift, resetDrift } from "./drift.js";
import { Jobs } from "./jobs.js";
import { drawLive } from "./live.js";
import { SHOWN as OUTLIERS, drawOutliers } from "./outliers.js";
import { Panel } from "./panel.js";
import { keepReadable } from "./tables.js";
import { Trial } from "./trial.js";
import { Versions, reachedByRollback } from "./versions.js";

const SPARING = 10; // times as long as a look took it is rested at least, so that a large or slow service is not kept busy by looking
const LONGEST_REST = 15; // seconds, so that one look that took long does not hide what is new
const REFUSALS = 5; // shown at most

const state = { none: false, versions: [], detector: null, previous: null, health: null, trouble: "", turn: 0, answered: Date.now() };
const memory = new Memory();
const detectors = new Detectors();
const versions = new Versions(list);
const drift = new Panel("drift", (report) => {
  drawDrift(report);
  showLive(); // which has the chart of the evidence
});
const outliers = new Panel("feed", drawOutliers);
const jobs = new Jobs(list);
const trial = new Trial();

const path = (name) => `/v1/detectors/${encodeURIComponent(name)}`;
const wanted = () => (location.hash.startsWith("#/") ? decoded(location.hash.slice(2)) : state.detector?.name);
const serving = () => state.versions.find(({ version }) => version === state.detector?.default_version);

/** The text that an address escapes; as it stands where it is not escaped rightly. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Look again and again, `seconds` after the look before; not while nobody sees the page. */
async function keep(seconds, look) {
  for (;;) {
    const began = performance.now();
    if (!document.hidden) await look();
    const sparing = Math.min(SPARING * (performance.now() - began), LONGEST_REST * 1000);
    const rest = Math.max(seconds * 1000, sparing);
    await new Promise((rested) => setTimeout(rested, rest));
  }
}

async function lookAtHealth() {
  const away = state.health === null;
  state.health = await readiness().catch(() => null);
  if (state.health) state.answered = Date.now();
  showHealth();
  if (away && state.health && state.trouble) list(); // it is back
}

async function lookAtCounts() {
  await memory.look().catch(problems(() => {})); // that the service does not answer is told by its health
  showLive();
  showList();
}

async function list() {
  const turn = ++state.turn;
  const seen = await listing().catch(problems((trouble) => ({ trouble })));
  if (turn !== state.turn) return; // it was looked up again meanwhile
  Object.assign(state, seen);
  showPage();
}

/** The detector that is wanted, or the first one, and its versions; `none` where there is none at all. */
async function listing() {
  const shown = await detectors.look();
  const name = wanted() ?? shown[0]?.name;
  const detector = name ? await found(path(name)) : null;
  const none = !detector && !shown.length && !detectors.wanted;
  const versions = detector ? (await ask(`${path(name)}/versions`)).versions.reverse() : [];
  const previous = detector && (await reachedByRollback(detector));
  return { none, detector, versions, previous, trouble: "" };
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
  const { health, trouble, answered } = state;
  const refused = health?.refused ?? [];
  const texts = health ? [trouble] : [`The service does not answer. What is shown is as it was at ${clock(answered)}.`];
  for (const { detector, version, reason } of refused.slice(0, REFUSALS)) {
    texts.push(`Version ${version} of ${detector} is refused and does not serve: ${reason}.`);
  }
  if (refused.length > REFUSALS) texts.push(`So are ${whole(refused.length - REFUSALS)} more.`);
  refill(byId("troubles"), texts.filter(Boolean), (sentences) => sentences.map((text) => html("li", {}, text)));
}

function showPage() {
  showTroubles();
  const { detector, trouble } = state;
  byId("empty").hidden = !state.none || trouble !== "";
  byId("unknown").hidden = state.none || detector !== null || trouble !== "";
  byId("detector").hidden = detector === null;
  document.title = detector ? `${detector.name} · farfield` : "farfield";
  showList();
  drift.about(detector && `${path(detector.name)}/drift?version=${detector.default_version}&features=${FEATURES}`);
  outliers.about(detector && `${path(detector.name)}/outliers?count=${OUTLIERS}`);
  if (!detector) return;
  versions.show(detector, state.versions, state.previous);
  trial.show(detector, state.versions);
  showLive();
}

function showList() {
  detectors.show(state.detector?.name, (name, version) => memory.alarm(name, version));
}

function showLive() {
  const version = serving();
  if (version) drawLive(version, memory.of(version.detector, version.version), drift.answer?.martingale?.limit ?? null);
}

byId("reset-drift").addEventListener("click", () => resetDrift(drift.answer, () => drift.look()));
addEventListener("hashchange", list);
addEventListener("resize", showLive);
keepReadable();
keep(2, lookAtHealth);
keep(2, lookAtCounts);
keep(10, list);
keep(4, () => drift.look());
keep(4, () => outliers.look());
keep(4, () => jobs.look());
