// Fits and updates: how far they are, as they tell it themselves, and how they ended.

import { ask, problems } from "./api.js";
import { agreed } from "./confirm.js";
import { badge, brief, byId, cell, foreign, html, recent, refill, rowHeader, whole } from "./dom.js";

const SHOWN = 10;
const FOLLOWED = 3; // at a time; a browser has few connections to one host

export class Jobs {
  /** `ended` is called when one that was followed is over. */
  constructor(ended) {
    this.ended = ended;
    this.jobs = [];
    this.sources = new Map();
    addEventListener("pagehide", () => this.leave());
  }

  /** Listen no more: a page that the browser keeps to go back to would hold its connections. The next look follows again. */
  leave() {
    for (const source of this.sources.values()) source.close();
    this.sources.clear();
  }

  async look() {
    const trouble = await ask(`/v1/jobs?count=${SHOWN}`).then(({ jobs }) => this.show(jobs), problems((text) => text));
    byId("jobs-trouble").textContent = trouble;
  }

  show(jobs) {
    this.jobs = jobs;
    const running = jobs.filter(({ state }) => state === "running" || state === "queued").slice(-FOLLOWED);
    for (const { id } of running) if (!this.sources.has(id)) this.follow(id);
    this.draw();
    return "";
  }

  /** Draw each event of a job as it comes; the browser asks again by itself where the connection is lost. */
  follow(id) {
    const source = new EventSource(`/v1/jobs/${id}/events`);
    this.sources.set(id, source);
    const forget = () => {
      source.close();
      this.sources.delete(id);
    };
    source.addEventListener("progress", ({ data }) => this.update(JSON.parse(data)));
    source.addEventListener("end", ({ data }) => {
      forget();
      this.update(JSON.parse(data));
      this.ended();
    });
    source.addEventListener("error", () => source.readyState === EventSource.CLOSED && forget());
  }

  update(job) {
    this.jobs = this.jobs.map((known) => (known.id === job.id ? job : known));
    this.draw();
  }

  draw() {
    byId("jobs").hidden = this.jobs.length === 0;
    refill(byId("jobs-rows"), this.jobs, (jobs) => jobs.map((job) => this.row(job)));
  }

  row(job) {
    const over = job.ended !== null;
    const cancel = html("button", { type: "button", "data-focus": job.id, disabled: job.cancelling, onclick: () => this.cancelled(job) }, "Cancel");
    cancel.setAttribute("aria-label", `Cancel the ${job.kind} of ${job.detector}`);
    return html(
      "tr",
      { "data-job": job.id },
      rowHeader(html("a", { href: `#/${job.detector}`, "data-focus": `to ${job.id}` }, job.detector)),
      cell(job.kind),
      cell(badge(STATES[job.state], job.cancelling ? "cancelling" : job.state)),
      cell(...(over ? outcome(job) : progress(job))),
      cell(recent(job.created)),
      cell(over ? "" : cancel),
    );
  }

  async cancelled({ id, kind, detector }) {
    if (!(await agreed(`Cancel the ${kind} of ${detector}?`, "What it has done so far is lost; no version is published."))) return;
    await ask(`/v1/jobs/${id}:cancel`, { method: "POST" }).then(
      (job) => this.update(job),
      problems((text) => (byId("jobs-trouble").textContent = text)),
    );
  }
}

const STATES = { queued: "", running: "champion", done: "normal", failed: "outlier", cancelled: "" };

function outcome({ state, result, error }) {
  if (state === "failed") return [html("span", { class: "wrong wrapped" }, foreign(error ?? "It does not say why."))];
  return [result?.version ? `version ${result.version}` : "–"];
}

function progress({ detector, state, progress: { phase, done, total, seconds_left } }) {
  if (state === "queued") return ["waits for a worker"];
  const left = seconds_left === null ? "" : `, ${brief(Math.ceil(seconds_left))} s left`;
  const words = total ? `${phase}: ${whole(done)} of ${whole(total)}${left}` : phase;
  const bar = html("progress", { "aria-label": `Progress of ${detector}`, ...(total ? { value: done, max: total } : {}) });
  return [bar, html("small", {}, words)];
}
