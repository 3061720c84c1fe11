// The recent outliers of a detector, newest first.

import { brief, byId, cell, foreign, html, number, precise, refill, rowHeader, time } from "./dom.js";
import { shares } from "./shares.js";

export const SHOWN = 20;
const SHARES = 3;

export function drawOutliers({ outliers }) {
  byId("outliers-none").hidden = outliers.length > 0;
  byId("outliers-table").hidden = outliers.length === 0;
  refill(byId("outliers-rows"), outliers, (found) => found.map(row));
}

function row({ key, version, score, p_value, time: scored, thumbnail, attribution }) {
  const image = thumbnail ? [html("img", { src: `data:image/png;base64,${thumbnail}`, alt: "", width: 36, height: 36 })] : [];
  return html(
    "tr",
    {},
    rowHeader(html("div", { class: "picture" }, ...image, html("span", {}, foreign(key)))),
    cell(time(scored)),
    number(String(version)),
    number(precise(score)),
    number(brief(p_value)),
    cell(shares((attribution ?? []).slice(0, SHARES))),
  );
}
