// Whether the rows that are scored have drifted: the alarm, the rate of false alarms, what moved; and to begin anew.

import { ask, problems } from "./api.js";
import { agreed } from "./confirm.js";
import { badge, brief, byId, cell, date, foreign, html, number, percent, refill, rowHeader, shows, svg, whole } from "./dom.js";

export const SHOWN = 5; // features with the strongest evidence

/** Once the user agrees, forget the rows of the version that `report` is about. `changed` resolves when the page shows what is so then. */
export async function resetDrift({ detector, version, rows }, changed) {
  const text = `The alarm of version ${version} is lowered, and the ${whole(rows)} rows that it has watched are forgotten, for all replicas.`;
  if (!(await agreed(`Reset the drift of ${detector}?`, `${text} New rows are compared with the calibration rows as at first.`))) return;
  const path = `/v1/detectors/${detector}:reset-drift?version=${version}`;
  await ask(path, { method: "POST" }).then(() => notify("Begun anew."), problems((problem) => notify(problem, true)));
  await changed();
  byId("drift-notice").focus();
}

function notify(text, wrong = false) {
  byId("drift-notice").textContent = text;
  byId("drift-notice").classList.toggle("wrong", wrong);
}

export function drawDrift(report) {
  const { martingale, false_alarms: alarms, features, wasserstein } = report;
  if (!shows(byId("drift"), [report.detector, report.version])) notify("");
  refill(byId("drift-state"), martingale, () => [state(martingale)]);
  byId("reset-drift").disabled = !report.rows;
  byId("drift-rows").textContent = whole(report.rows);
  byId("drift-log").textContent = martingale ? brief(martingale.log) : "–";
  byId("drift-highest").textContent = martingale ? brief(martingale.highest) : "–";
  byId("drift-distance").textContent = wasserstein?.ratio ? `${brief(wasserstein.ratio)}×` : "–";
  byId("drift-why").textContent = report.no_martingale ? `There is no alarm: ${report.no_martingale}.` : alarmInWords(martingale);
  byId("drift-rate").textContent = rateInWords(alarms);
  byId("drift-features").hidden = !features?.rows;
  byId("drift-moved").textContent = features?.rows ? movedInWords(features) : report.no_features ?? "";
  refill(byId("drift-ranked"), features?.ranked ?? [], (ranked) => ranked.map(featureRow));
}

function state(martingale) {
  if (!martingale) return badge("", "not watched");
  return martingale.alarm ? badge("outlier", "alarm") : badge("normal", "no alarm");
}

function alarmInWords({ alarm, alarm_since, alarm_row, limit, rate }) {
  const promise = `which happens to rows that do not drift with a probability of at most ${percent(rate)}, ever`;
  if (alarm) return `Alarm since ${date(alarm_since)}, row ${whole(alarm_row)}: the evidence got to ${brief(limit)}, ${promise}.`;
  return `The alarm is raised when the evidence gets to ${brief(limit)}, ${promise}.`;
}

function rateInWords({ alpha, rate, lower, upper, promised }) {
  if (rate === null) return "";
  const expected = promised ? `; calibration promised ${percent(promised[0])} to ${percent(promised[1])}` : "";
  return `${percent(rate)} of the rows are outliers at alpha ${brief(alpha)}, so the rate is ${percent(lower)} to ${percent(upper)}${expected}.`;
}

function movedInWords({ moved, watched, rows }) {
  const which = moved ? `${whole(moved)} of ${whole(watched)} features have moved` : `None of ${whole(watched)} features has moved`;
  return `${which}, by ${whole(rows)} recent rows. Strongest evidence:`;
}

function featureRow({ feature, log_evidence, rank_shift, moved }) {
  const bar = svg("rect", { x: 50 + 100 * Math.min(rank_shift, 0), width: 100 * Math.abs(rank_shift), height: 6, class: moved ? "share" : "share lowering" });
  const middle = svg("line", { x1: 50, x2: 50, y1: 0, y2: 6, class: "middle" });
  const picture = svg("svg", { class: "shift", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, bar, middle);
  const verdict = moved ? badge("outlier", "moved") : "";
  return html("tr", {}, rowHeader(foreign(feature)), number(brief(log_evidence)), number(brief(rank_shift)), cell(picture), cell(verdict));
}
