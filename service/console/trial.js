// "Try it": files of the user, scored by a version of the detector that is shown.

import { ask, problems } from "./api.js";
import { badge, brief, byId, cell, foreign, html, number, precise, rowHeader, whole } from "./dom.js";
import { kind, request } from "./files.js";
import { shares } from "./shares.js";

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
    byId("trial").addEventListener("submit", (event) => {
      event.preventDefault();
      this.score();
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
    return html(
      "tr",
      {},
      rowHeader(images ? this.picture(this.files[result.index]) : `row ${result.index}`),
      cell(result.is_outlier ? badge("outlier", "outlier") : badge("normal", "normal")),
      number(precise(result.score)),
      number(brief(result.p_value)),
      cell(shares(result.attribution ?? [])),
    );
  }

  picture(file) {
    const url = URL.createObjectURL(file);
    this.thumbnails.push(url);
    const image = html("img", { src: url, alt: "", width: 36, height: 36 });
    return html("div", { class: "picture" }, image, html("span", {}, foreign(file.name)));
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
