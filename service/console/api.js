// What the console asks the service for.

/** A refusal of the service, or of the network; its message is a sentence for the user. */
export class Problem extends Error {}

/** Handler of a rejection that passes the sentence of a problem on; any other error is a bug, and goes on as one. */
export const problems = (handle) => (error) => {
  if (!(error instanceof Problem)) throw error;
  return handle(error.message);
};

async function fetched(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Problem("The service does not answer.");
  }
}

/** The JSON that `path` answers with; a refusal is thrown with the detail that it gives. */
export async function ask(path, options) {
  const response = await fetched(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(body.detail ?? `The service answered ${response.status} ${response.statusText}.`);
  return body;
}

export const askWithJson = (path, method, body) =>
  ask(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** State of the service, which comes with status 503 while it is not ready. */
export const readiness = async () => (await fetched("/readyz")).json();

const LINE = /^(\w+)\{(.*)\} (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export const versionKey = (detector, version) => `${detector} ${version}`;

/** What the service has counted so far, by version: `{rows, outliers, buckets: [{edge, rows}]}`. */
export async function counts() {
  const text = await (await fetched("/metrics")).text();
  const versions = new Map();
  for (const line of text.split("\n")) {
    const [, name, labelText, value] = LINE.exec(line) ?? [];
    if (name) count(versions, name, Object.fromEntries([...labelText.matchAll(LABEL)].map(([, key, at]) => [key, at])), Number(value));
  }
  return versions;
}

function count(versions, name, { detector, version, le }, value) {
  const key = versionKey(detector, version);
  const found = versions.get(key) ?? { rows: 0, outliers: 0, buckets: [] };
  if (name === "farfield_rows_scored_total") found.rows = value;
  else if (name === "farfield_outliers_total") found.outliers = value;
  else if (name === "farfield_p_value_bucket" && le !== "+Inf") found.buckets.push({ edge: Number(le), rows: value });
  else return;
  versions.set(key, found);
}
