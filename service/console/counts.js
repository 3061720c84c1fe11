// What the service has counted since it loaded each version, and how that went in the last minutes.

import { fetched } from "./api.js";

export const SPAN = 300; // seconds that are remembered
const SMOOTHED = 30; // seconds that an outlier rate is taken over
const LINE = /^(\w+)\{(.*)\} (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const FIGURES = {
  farfield_rows_scored_total: "rows",
  farfield_outliers_total: "outliers",
  farfield_score_sum: "scores",
  farfield_drift_log_martingale: "martingale",
  farfield_drift_alarm: "alarm",
};

const versionKey = (detector, version) => `${detector} ${version}`;

/** The figures of each version, by its key, in the text of the metrics: `{rows, outliers, scores, martingale, alarm, buckets}`. */
export function parsed(text) {
  const versions = new Map();
  for (const line of text.split("\n")) {
    const [, name, labelText, value] = LINE.exec(line) ?? [];
    if (!(name in FIGURES) && name !== "farfield_p_value_bucket") continue;
    const { detector, version, le } = Object.fromEntries([...labelText.matchAll(LABEL)].map(([, key, at]) => [key, at]));
    const key = versionKey(detector, version);
    const found = versions.get(key) ?? { rows: 0, outliers: 0, scores: 0, martingale: null, alarm: 0, buckets: [] };
    if (name in FIGURES) found[FIGURES[name]] = Number(value);
    else if (le !== "+Inf") found.buckets.push({ edge: Number(le), rows: Number(value) });
    versions.set(key, found);
  }
  return versions;
}

/** What this page has seen of the counts, look by look. It is forgotten with the page, and where a count fell: another process answered. */
export class Memory {
  constructor() {
    this.looks = new Map();
  }

  async look() {
    const found = parsed(await (await fetched("/metrics")).text());
    const now = Date.now() / 1000;
    for (const [key, counts] of found) {
      const kept = (this.looks.get(key) ?? []).filter(({ time, rows }) => now - time < SPAN + SMOOTHED && rows <= counts.rows);
      this.looks.set(key, [...kept, { ...counts, time: now }]);
    }
    for (const key of this.looks.keys()) if (!found.has(key)) this.looks.delete(key);
  }

  of(detector, version) {
    return new Past(this.looks.get(versionKey(detector, version)) ?? []);
  }

  /** Whether the version has raised the alarm of drift. */
  alarm(detector, version) {
    return this.of(detector, version).latest.alarm === 1;
  }
}

/** What was seen of one version. Each trend is a list of `{age, value}`: the age in seconds, the value null where there is none. */
class Past {
  constructor(looks) {
    this.looks = looks;
    this.latest = looks.at(-1) ?? { rows: 0, outliers: 0, alarm: 0, buckets: [] };
  }

  /** Seconds since the first look. */
  get age() {
    return this.looks.length ? Date.now() / 1000 - this.looks[0].time : 0;
  }

  trend(value) {
    const now = Date.now() / 1000;
    return this.looks.map((look, index) => ({ age: now - look.time, value: value(look, index) })).filter(({ age }) => age <= SPAN);
  }

  rowsPerSecond() {
    return this.trend((look, index) => {
      const before = this.looks[index - 1];
      return before ? (look.rows - before.rows) / (look.time - before.time) : null;
    });
  }

  /** Mean score of the rows between two looks. */
  score() {
    return this.trend((look, index) => {
      const before = this.looks[index - 1];
      return before && look.rows > before.rows ? (look.scores - before.scores) / (look.rows - before.rows) : null;
    });
  }

  /** Share of outliers among the rows of the SMOOTHED seconds before each look. */
  outlierRate() {
    return this.trend((look) => {
      const start = this.looks.find(({ time }) => look.time - time <= SMOOTHED);
      return look.rows > start.rows ? (look.outliers - start.outliers) / (look.rows - start.rows) : null;
    });
  }

  martingale() {
    return this.trend((look) => look.martingale);
  }
}
