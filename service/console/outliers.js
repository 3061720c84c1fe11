// The recent outliers of a detector, newest first.

import { brief, byId, cell, foreign, html, number, precise, recent, refill, rowHeader } from "./dom.js";
import { shares } from "./shares.js";

export const SHOWN = 20;
const SHARES = 3;

export function drawOutliers({ outliers }) {
  byId("feed-none").hidden = outliers.length > 0;
  byId("feed-table").hidden = outliers.length === 0;
  refill(byId("feed-rows"), outliers, (found) => found.map(row));
}

function row({ key, version, score, p_value, time: scored, thumbnail, attribution }) {
  const image = thumbnail ? [html("img", { src: `data:image/png;base64,${thumbnail}`, alt: "", width: 36, height: 36 })] : [];
  return html(
    "tr",
    {},
    rowHeader(html("div", { class: "picture" }, ...image, html("span", {}, foreign(key)))),
    cell(recent(scored)),
    number(String(version)),
    number(precise(score)),
    number(brief(p_value)),
    cell(shares((attribution ?? []).slice(0, SHARES))),
  );
}
