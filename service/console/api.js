// What the console asks the service for.

const PATIENCE = 10; // seconds for what the page looks up by itself; what a user waits for takes its time

/** A refusal of the service, or of the network; its message is a sentence for the user. */
export class Problem extends Error {}

/** Handler of a rejection that passes the sentence of a problem on; any other error is a bug, and goes on as one. */
export const problems = (handle) => (error) => {
  if (!(error instanceof Problem)) throw error;
  return handle(error.message);
};

/** The answer of `path`; without options it has to come soon. */
export async function fetched(path, options = { signal: AbortSignal.timeout(PATIENCE * 1000) }) {
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
  if (response.ok) return body;
  const problem = new Problem(body.detail ?? `The service answered ${response.status} ${response.statusText}.`);
  throw Object.assign(problem, { status: response.status });
}

/** What `path` answers with, or null where there is no such thing. */
export async function found(path) {
  try {
    return await ask(path);
  } catch (error) {
    if (error.status === 404 || error.status === 422) return null; // 422: what no name can be
    throw error;
  }
}

export const askWithJson = (path, method, body) =>
  ask(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** State of the service, which comes with status 503 while it is not ready. */
export const readiness = async () => (await fetched("/readyz")).json();
