// The two kinds of chart, drawn as SVG in the size that the page gives them, each with its content in words.

import { brief, svg, whole } from "./dom.js";

const LOWEST_TOP = 2; // of the histogram's axis, so that bars at 1 stand at half height
const HIGHEST_TOP = 4; // bars above are cut off and say their value
const MARGIN = { left: 28, right: 4, top: 16, bottom: 20 };
const LETTER = 6.2; // pixels

/**
 * How many times more rows each bar holds than normal inputs would put there.
 *
 * P-values of normal inputs are the multiples of 1 / (n + 1), each as likely as the others, for n
 * calibration rows. A bucket below the first multiple can not be hit and is joined to the next.
 */
export function ratios(buckets, calibrationRows) {
  const steps = calibrationRows + 1;
  const share = (edge) => Math.floor(edge * steps + 1e-9) / steps;
  const total = buckets.at(-1)?.rows ?? 0;
  const bars = [];
  let from = { edge: 0, rows: 0 };
  for (const to of buckets) {
    const expected = share(to.edge) - share(from.edge);
    if (expected <= 0) continue;
    const rows = to.rows - from.rows;
    bars.push({ low: from.edge, high: to.edge, rows, ratio: total ? rows / total / expected : 0 });
    from = to;
  }
  return bars;
}

/** Histogram of p-values: equal columns for unequal buckets, so that the small ones, where alarms are decided, are seen. */
export function drawHistogram(chart, bars, alpha) {
  const { width, height } = box(chart);
  if (!width) return; // it is not on the page yet
  const bottom = height - MARGIN.bottom;
  const top = Math.min(HIGHEST_TOP, Math.max(LOWEST_TOP, ...bars.map((bar) => bar.ratio)));
  const y = (ratio) => bottom - (Math.min(ratio, top) / top) * (bottom - MARGIN.top);
  const step = (width - MARGIN.left - MARGIN.right) / bars.length;
  const x = (index) => MARGIN.left + index * step;
  const edge = (value) => fitting([step < 5 * LETTER ? String(value).slice(1) : String(value)], step);
  const cut = ({ ratio }) => fitting([`${brief(ratio)}×`, `${Math.round(ratio)}×`, `${Math.round(ratio)}`], step - 4);
  const ticks = [0, 1, 2, 3, 4].filter((tick) => tick <= top);
  chart.setAttribute("aria-label", `Histogram of the p-values of ${whole(bars.reduce((sum, bar) => sum + bar.rows, 0))} rows, also below as a table`);
  chart.replaceChildren(
    ...ticks.map((tick) => line(MARGIN.left, y(tick), width - MARGIN.right, y(tick), "grid")),
    ...ticks.map((tick) => text(MARGIN.left - 8, y(tick) + 4, `${tick}×`, "end")),
    ...bars.map((bar, index) => column(bar, x(index) + 1.5, y(bar.ratio), step - 3, bottom, bar.high <= alpha)),
    ...bars.filter((bar) => bar.ratio > top).map((bar) => text(x(bars.indexOf(bar)) + step / 2, MARGIN.top - 5, cut(bar))),
    line(MARGIN.left, y(1), width - MARGIN.right, y(1), "limit"),
    ...bars.slice(1).map((bar, index) => text(x(index + 1), height - 5, edge(bar.low))),
    text(MARGIN.left, height - 5, "0"),
    text(width - MARGIN.right, height - 5, "1", "end"),
  );
}

/** The first of `labels` for which there is room. */
const fitting = (labels, room) => labels.find((label) => label.length * LETTER <= room) ?? "";

function column(bar, x, y, width, bottom, alarming) {
  const shape = svg("rect", { x, y, width, height: Math.max(bottom - y, 0), rx: 2, class: alarming ? "column alarming" : "column" });
  shape.append(svg("title", {}, `p-value ${bar.low} to ${bar.high}: ${bar.rows} rows, ${brief(bar.ratio)} times what normal inputs give`));
  return shape;
}

/**
 * A line over the last `span` seconds, from `{age, value}` with the age in seconds and null for no value. Its axis begins at 0, or at
 * the lowest value where `floats`, and has room for `least`; `limit`, a value with its `label`, is drawn across.
 */
export function drawTrend(chart, title, points, { span, least = 0, floats = false, limit = null, format = brief }) {
  const { width, height } = box(chart);
  if (!width) return; // it is not on the page yet
  const values = points.map(({ value }) => value).filter((value) => value !== null);
  const lowest = Math.min(floats && values.length ? Infinity : 0, ...values);
  const highest = Math.max(lowest + least, limit?.value ?? lowest, ...values);
  const range = (highest - lowest) * 1.1 || 1;
  const y = (value) => height - 4 - ((value - lowest) / range) * (height - 22);
  const x = (age) => width * (1 - age / span);
  const path = points.map(({ age, value }, index) => {
    if (value === null) return "";
    const begins = index === 0 || points[index - 1].value === null;
    const ends = index === points.length - 1 || points[index + 1].value === null;
    return `${begins ? "M" : "L"}${x(age).toFixed(1)} ${y(value).toFixed(1)}${begins && ends ? "h0" : ""}`; // a round dot for a lone value
  });
  chart.setAttribute("aria-label", `${title} over the last ${whole(span)} seconds: ${inWords(values, format)}`);
  chart.replaceChildren(line(0, y(lowest), width, y(lowest), "grid"), svg("path", { d: path.join(""), class: "trend" }));
  if (limit) chart.append(line(0, y(limit.value), width, y(limit.value), "limit"), text(2, y(limit.value) - 4, limit.label, "start"));
  if (values.length) chart.append(text(width - 2, 10, format(values.at(-1)), "end"));
  if (floats && values.length) chart.append(text(2, height - 8, format(lowest), "start"));
}

function inWords(values, format) {
  if (!values.length) return "nothing yet";
  return `now ${format(values.at(-1))}, between ${format(Math.min(...values))} and ${format(Math.max(...values))}`;
}

function box(chart) {
  const { width, height } = chart.getBoundingClientRect();
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return { width, height };
}

const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });

const text = (x, y, content, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, content);
