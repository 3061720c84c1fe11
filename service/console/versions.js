// The versions of the detector that is shown: promote one, or roll back.

import { ask, askWithJson, problems } from "./api.js";
import { agreed } from "./confirm.js";
import { difference } from "./difference.js";
import { byId, cell, foreign, html, number, refill, rowHeader, size, time, whole } from "./dom.js";

const ALIAS = "champion";
const SHOWN = 10; // of the newest, before the user asks for more

const aliasPath = (name) => `/v1/detectors/${name}/aliases/${ALIAS}`;

/** Version that rolling the alias back would reach, or null. */
export async function reachedByRollback({ name, aliases, versions }) {
  if (!(ALIAS in aliases)) return null;
  const { history } = await ask(aliasPath(name));
  return history.find(({ version }) => version !== aliases[ALIAS] && versions.includes(version))?.version ?? null;
}

export class Versions {
  /** `moved` is called when an alias may have moved, and resolves when the page shows where it is. */
  constructor(moved) {
    this.moved = moved;
    this.shown = SHOWN;
    byId("rollback").addEventListener("click", () => this.rollBack());
    byId("more-versions").addEventListener("click", () => {
      this.shown += 10 * SHOWN;
      this.draw();
    });
  }

  show(detector, versions, previous) {
    if (this.detector?.name !== detector.name) {
      this.shown = SHOWN;
      notify("");
    }
    Object.assign(this, { detector, versions, previous });
    byId("name").textContent = detector.name;
    const why = ALIAS in detector.aliases ? `the ${ALIAS}` : `the latest, as no ${ALIAS} is set`;
    byId("serving").textContent = `Version ${detector.default_version} serves by default: it is ${why}.`;
    byId("rollback").disabled = previous === null;
    byId("rollback").title = previous === null ? `${ALIAS} has no earlier version to go back to` : `Back to version ${previous}`;
    this.draw();
  }

  draw() {
    const left = this.versions.length - this.shown;
    byId("more-versions").hidden = left <= 0;
    byId("more-versions").textContent = `Show more of the ${whole(Math.max(left, 0))} older versions`;
    refill(byId("versions"), this.versions.slice(0, this.shown), (versions) => versions.map((version) => this.row(version)));
  }

  row(version) {
    const width = version.levels.reduce((sum, level) => sum + level.width, 0);
    const aliases = version.aliases.map((alias) => html("span", { class: alias === ALIAS ? "badge champion" : "badge", title: alias }, alias));
    const about = { type: "button", "data-focus": version.version, "aria-label": `Promote version ${version.version}` };
    const promote = html("button", { ...about, onclick: () => this.promote(version.version) }, "Promote");
    return html(
      "tr",
      { "data-version": version.version },
      rowHeader(String(version.version)),
      cell(...aliases, version.aliases.includes(ALIAS) ? "" : promote),
      cell(version.type),
      cell(`${whole(version.n_fit)} rows`, html("small", {}, foreign(version.source.name))),
      number(`${whole(version.n_calibration)} rows`),
      number(whole(width)),
      number(String(version.alpha)),
      number(size(version.bytes)),
      cell(time(version.created)),
    );
  }

  promote(version) {
    const { name, aliases } = this.detector;
    const expected = aliases[ALIAS] ?? 0;
    const from = expected ? `Version ${expected} serves now` : `No ${ALIAS} is set now`;
    const text = `${from}. Version ${version} of ${name} will be checked, and serve from then on.`;
    return this.move(`Promote version ${version}?`, text, version, () => askWithJson(aliasPath(name), "PUT", { version, expected }));
  }

  rollBack() {
    const { name, aliases } = this.detector;
    const text = `Version ${aliases[ALIAS]} of ${name} serves now. Version ${this.previous} will serve again.`;
    return this.move(`Roll back to version ${this.previous}?`, text, this.previous, () => ask(`${aliasPath(name)}:rollback`, { method: "POST" }));
  }

  /** Do what moves the alias once the user agrees, and say how it went. */
  async move(title, text, version, move) {
    const { name, default_version } = this.detector;
    if (!(await agreed(title, text, "Comparing the two versions …", difference(name, default_version, version)))) return;
    const tell = ({ version: now, previous }) => notify(`Version ${now} serves now${previous ? `, and version ${previous} no more` : ""}.`);
    await move().then(tell, problems((problem) => notify(problem, true)));
    await this.moved();
    byId("notice").focus(); // the button that was pressed may be gone
  }
}

function notify(text, wrong = false) {
  byId("notice").textContent = text;
  byId("notice").classList.toggle("wrong", wrong);
}
