// What the version that serves scores just now.

import { drawHistogram, drawTrend, ratios } from "./charts.js";
import { SPAN } from "./counts.js";
import { brief, byId, html, number, percent, precise, refill, rowHeader, whole } from "./dom.js";

const SHORTEST = 60; // seconds that a trend shows at least

/** Draw the `past` of a version, as counts.js has it. `alarm` is where the evidence for drift raises one, or null. */
export function drawLive({ version, alpha, n_calibration }, past, alarm) {
  const { rows, outliers, buckets } = past.latest;
  byId("live-version").textContent = `version ${version}`;
  byId("rows").textContent = whole(rows);
  byId("outliers").textContent = whole(outliers);
  byId("rate").textContent = rows ? percent(outliers / rows) : "–";
  byId("accepted").textContent = percent(alpha);
  byId("quiet").hidden = rows > 0;
  const bars = ratios(buckets, n_calibration);
  drawHistogram(byId("histogram"), bars, alpha);
  refill(byId("bars"), bars, () => bars.map(barRow));
  const span = Math.min(SPAN, Math.max(SHORTEST, past.age));
  for (const since of document.getElementsByClassName("since")) since.textContent = `${whole(span)} s ago`;
  const trend = (id, title, points, options) => drawTrend(byId(id), title, points, { span, ...options });
  trend("score", "Mean score", past.score(), { floats: true, format: precise });
  trend("throughput", "Rows per second", past.rowsPerSecond(), { least: 1 });
  trend("outlier-rate", "Outlier rate", past.outlierRate(), { least: 0.01, limit: { value: alpha, label: `alpha ${percent(alpha)}` }, format: percent });
  trend("martingale", "Evidence for drift", past.martingale(), { floats: true, limit: alarm && { value: alarm, label: `alarm at ${brief(alarm)}` } });
}

function barRow({ low, high, rows, ratio }) {
  return html("tr", {}, rowHeader(`${low} to ${high}`), number(whole(rows)), number(`${brief(ratio)}×`));
}
