// How much each feature adds to a score, as bars.

import { brief, foreign, html, svg } from "./dom.js";

/** A list of shares as answers have them; what lowers the score has another colour, and a minus. */
export function shares(attribution) {
  if (!attribution.length) return "–";
  const largest = Math.max(...attribution.map(({ share }) => Math.abs(share))) || 1;
  return html("ul", { class: "shares" }, ...attribution.map((part) => item(part, largest)));
}

function item({ feature, level, component, share }, largest) {
  const bar = svg("rect", { width: (100 * Math.abs(share)) / largest, height: 6, class: share < 0 ? "share lowering" : "share" });
  const picture = svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
  const name = html("span", { class: "feature" }, foreign(feature ?? level ?? component));
  return html("li", {}, name, picture, html("span", { class: "number" }, brief(share)));
}
