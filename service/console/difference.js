// How a version differs from the one that serves, for the question before it takes over.

import { ask, problems } from "./api.js";
import { brief, cell, count, foreign, html, precise, rowHeader } from "./dom.js";

const LISTED = 3; // features that moved farthest
const NAMES = { n_fit: "fitted on", n_calibration: "calibrated on" };

/** Elements that tell the difference; a sentence where the service cannot tell it. */
export function difference(name, older, newer) {
  if (older === newer) return Promise.resolve([]);
  const refused = (text) => [html("p", { class: "wrong" }, `The two versions cannot be compared: ${text}`)];
  return ask(`/v1/detectors/${name}/versions/${older}/difference/${newer}`, {}).then((found) => told(found, older, newer), problems(refused));
}

function told({ changes, shifts, golden_p_values }, older, newer) {
  const rows = Object.entries(changes);
  const facts = [...shifts.flatMap(shiftInWords), goldenInWords(golden_p_values)].filter(Boolean);
  return [
    rows.length ? table(rows, older, newer) : html("p", {}, "Type, parameters, levels, threshold and alpha are the same."),
    html("ul", { class: "facts" }, ...facts.map((fact) => html("li", {}, ...[fact].flat()))),
  ];
}

function table(rows, older, newer) {
  const head = ["", `Version ${older}`, `Version ${newer}`].map((title) => html("th", { scope: "col" }, title));
  const body = rows.map(([what, [before, after]]) => html("tr", {}, rowHeader(NAMES[what] ?? what), cell(written(before)), cell(written(after))));
  return html("table", { class: "difference" }, html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body));
}

function written(value) {
  if (typeof value === "number") return precise(value);
  if (value === null) return "–";
  return foreign(typeof value === "string" ? value : JSON.stringify(value));
}

/** What moved in one part of the detector, where its sums are known. */
function shiftInWords({ part, mean_shift, covariance_change, features }) {
  if (mean_shift === null) return [];
  const moved = features.slice(0, LISTED).flatMap(({ feature, standard_deviations: by }, index) => [
    index ? ", " : "; farthest ", foreign(feature), by === null ? "" : ` by ${brief(by)} sd`,
  ]);
  return [[foreign(part), `: mean moved by ${brief(mean_shift)} (Mahalanobis), covariance by ${brief(covariance_change)} of itself`, ...moved, "."]];
}

function goldenInWords(pairs) {
  if (!pairs?.length) return "";
  const farthest = Math.max(...pairs.map(([before, after]) => Math.abs(after - before)));
  return `P-values of ${count(pairs.length, "golden row")} change by at most ${brief(farthest)}.`;
}
