// "Try it": files of the user, scored by a version of the detector that is shown.

import { Problem, ask, problems } from "./api.js";
import { brief, byId, html, precise, svg, whole } from "./dom.js";

const ATTRIBUTED = 3;
const MOST_SHOWN = 100;

export class Trial {
  constructor() {
    this.files = [];
    this.thumbnails = [];
    this.turn = 0; // answers to any but the last request are dropped
    byId("files").addEventListener("change", ({ target }) => {
      this.take(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
    byId("alpha").addEventListener("change", () => this.score());
    byId("by").addEventListener("change", () => this.score());
    this.listenForDrops();
  }

  listenForDrops() {
    const mark = (over) => byId("drop").classList.toggle("over", over);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      mark(true);
    });
    document.addEventListener("dragleave", (event) => mark(event.relatedTarget !== null));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      this.take(event.dataTransfer.files);
    });
  }

  /** Follow the detector on the page; results of another one go. */
  show(detector, versions) {
    if (this.detector?.name !== detector.name) this.clear();
    this.detector = detector;
    const serving = versions.find((version) => version.version === detector.default_version);
    const images = Boolean(serving?.extractor?.preprocessing);
    const width = serving?.levels.reduce((sum, level) => sum + level.width, 0);
    byId("files").accept = images ? "image/*,.npy" : ".csv,.npy,text/csv";
    byId("drop-text").textContent = images ? "Choose images, or drop them here" : "Choose a CSV or .npy file, or drop it here";
    byId("drop-hint").textContent = images
      ? "Any size and number; PNG, JPEG and the like"
      : serving?.extractor ? "Rows of numbers, as the extractor takes them" : `Rows of ${width} numbers`;
    byId("alpha").placeholder = serving?.alpha ?? "";
    const chosen = byId("by").value;
    const options = versions.map(({ version }) => html("option", { value: version }, `version ${version}`));
    byId("by").replaceChildren(html("option", { value: "" }, `default, version ${detector.default_version}`), ...options);
    if (versions.some((version) => String(version.version) === chosen)) byId("by").value = chosen;
  }

  clear() {
    this.turn += 1;
    this.files = [];
    byId("alpha").value = "";
    byId("by").value = "";
    this.say("");
    this.release();
  }

  take(files) {
    this.files = [...files];
    this.score();
  }

  async score() {
    if (!this.files.length || !this.detector) return;
    if (!byId("alpha").reportValidity()) return;
    const turn = ++this.turn;
    this.say("Scoring …");
    const scored = request(this.files).then((options) => this.answer(options));
    const report = await scored.then((answer) => () => this.report(answer), problems((text) => () => this.refuse(text)));
    if (turn === this.turn) report();
  }

  refuse(text) {
    this.release();
    this.say(text, true);
  }

  /** The service's answer; without attributions from detectors that have none. */
  async answer(options) {
    const { name } = this.detector;
    const by = byId("by").value;
    const alpha = byId("alpha").value;
    const path = `/v1/detectors/${name}${by && `/versions/${by}`}:score?${alpha && `alpha=${alpha}&`}`;
    return ask(`${path}attribute=${ATTRIBUTED}`, options).catch(() => ask(path, options));
  }

  report({ version, alpha, results }) {
    const outliers = results.filter((result) => result.is_outlier).length;
    const found = `${whole(outliers)} of ${whole(results.length)} ${outliers === 1 ? "is an outlier" : "are outliers"}`;
    const chance = `which allows for ${brief(alpha * results.length)} false alarms on average`;
    this.say(`${found} by version ${version} at alpha ${alpha}, ${chance}.`);
    this.release();
    const ordered = results.map((result, index) => ({ ...result, index })).sort((a, b) => b.score - a.score);
    const images = this.files.length === results.length && this.files.every((file) => kind(file) === "image");
    byId("verdicts").replaceChildren(...ordered.slice(0, MOST_SHOWN).map((result) => this.row(result, images)));
    byId("more").textContent = results.length > MOST_SHOWN ? `The ${MOST_SHOWN} highest scores are shown.` : "";
    byId("results").hidden = false;
  }

  row(result, images) {
    const badge = result.is_outlier ? html("span", { class: "badge outlier" }, "outlier") : html("span", { class: "badge normal" }, "normal");
    return html(
      "tr",
      {},
      html("th", { scope: "row" }, images ? this.picture(this.files[result.index]) : `row ${result.index}`),
      html("td", {}, badge),
      html("td", { class: "number" }, precise(result.score)),
      html("td", { class: "number" }, brief(result.p_value)),
      html("td", {}, shares(result.attribution ?? [])),
    );
  }

  picture(file) {
    const url = URL.createObjectURL(file);
    this.thumbnails.push(url);
    const image = html("img", { src: url, alt: "", width: 36, height: 36 });
    return html("div", { class: "picture" }, image, html("span", { title: file.name }, file.name));
  }

  release() {
    this.thumbnails.forEach((url) => URL.revokeObjectURL(url));
    this.thumbnails = [];
    byId("verdicts").replaceChildren();
    byId("results").hidden = true;
  }

  say(text, wrong = false) {
    byId("outcome").textContent = text;
    byId("outcome").classList.toggle("wrong", wrong);
  }
}

function shares(attribution) {
  const largest = Math.max(...attribution.map(({ share }) => Math.abs(share)));
  const items = attribution.map(({ feature, share }) => {
    const bar = svg("rect", { width: (100 * Math.abs(share)) / largest, height: 6, class: share < 0 ? "share lowering" : "share" });
    const picture = svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
    return html("li", {}, html("span", { class: "feature", title: feature }, feature), picture, html("span", { class: "number" }, brief(share)));
  });
  return html("ul", { class: "shares" }, ...items);
}

function kind(file) {
  if (/\.npy$/i.test(file.name)) return "npy";
  return /\.(csv|tsv|txt)$/i.test(file.name) || file.type === "text/csv" ? "csv" : "image";
}

/** The request for `fetch` that carries the files. */
async function request(files) {
  const kinds = new Set(files.map(kind));
  if (!kinds.has("npy") && !kinds.has("csv")) {
    const body = new FormData();
    files.forEach((file) => body.append("images", file));
    return { method: "POST", body };
  }
  if (files.length > 1) throw new Problem("Choose images, or a single CSV or .npy file.");
  if (kinds.has("npy")) return { method: "POST", headers: { "content-type": "application/x-npy" }, body: files[0] };
  const text = await files[0].text().catch(() => Promise.reject(new Problem("The file has changed since. Choose it again.")));
  const rows = parseCsv(text);
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ rows }) };
}

/** Rows of numbers from CSV with commas, semicolons or tabs; a first line without any number is a header. */
export function parseCsv(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/);
  const separator = [";", "\t"].find((mark) => lines[0].includes(mark)) ?? ",";
  const cells = (line) => line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
  const isNumber = (cell) => cell !== "" && Number.isFinite(Number(cell));
  const first = cells(lines[0]).some(isNumber) ? 0 : 1;
  const rows = [];
  lines.slice(first).forEach((line, index) => {
    if (!line.trim()) return;
    const row = cells(line);
    const wrong = row.findIndex((cell) => !isNumber(cell));
    if (wrong >= 0) throw new Problem(`Line ${index + first + 1}, column ${wrong + 1} is "${row[wrong]}"; a number is needed.`);
    rows.push(row.map(Number));
  });
  return rows;
}
