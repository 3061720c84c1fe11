// The list of detectors: searched, and looked up a page at a time, however many there are.

import { ask, problems } from "./api.js";
import { badge, byId, html, refill, whole } from "./dom.js";

const PAGE = 50;
const FEW = 8; // that nobody needs to search among

export class Detectors {
  constructor() {
    this.shown = [];
    this.starts = [""]; // where each page up to the one looked up begins: behind that name
    this.drawn = this.starts; // those of the page that is shown
    this.next = null;
    this.turn = 0;
    this.alarm = () => false;
    byId("search").addEventListener("input", () => this.go([""]));
    byId("earlier").addEventListener("click", () => this.leaf(this.drawn.slice(0, -1)));
    byId("later").addEventListener("click", () => this.leaf([...this.drawn, this.next]));
  }

  /** Look up the page again; the last one before, where it is empty by now. Resolves to the detectors on it. */
  async look() {
    const turn = ++this.turn;
    const query = new URLSearchParams({ count: PAGE, after: this.starts.at(-1), contains: this.wanted });
    const { detectors, next } = await ask(`/v1/detectors?${query}`);
    if (turn !== this.turn) return this.shown; // another page is looked up by now
    if (!detectors.length && this.starts.length > 1) {
      this.starts = this.starts.slice(0, -1);
      return this.look();
    }
    Object.assign(this, { shown: detectors, drawn: this.starts, next });
    this.draw();
    return detectors;
  }

  /** What is searched for. */
  get wanted() {
    return byId("search").value.trim();
  }

  /** `alarm(name, version)` says whether a detector has drifted. */
  show(current, alarm) {
    Object.assign(this, { current, alarm });
    this.draw();
  }

  /** Go to the page before or after, unless another one is on its way: what comes after that is not known yet. */
  leaf(starts) {
    if (this.starts === this.drawn) this.go(starts);
  }

  go(starts) {
    this.starts = starts;
    return this.look().catch(problems(() => {})); // that the service does not answer is told by its health
  }

  draw() {
    const { shown, next, drawn, wanted } = this;
    const several = drawn.length > 1 || next !== null;
    const first = (drawn.length - 1) * PAGE + 1;
    byId("find").hidden = !several && !wanted && shown.length <= FEW;
    byId("pager").hidden = !several;
    byId("earlier").disabled = drawn.length === 1;
    byId("later").disabled = next === null;
    byId("range").textContent = several ? `${whole(first)}–${whole(first + shown.length - 1)}` : "";
    byId("found").textContent = wanted && !shown.length ? "None has this in its name." : "";
    const content = shown.map((one) => ({ ...one, versions: [], alarm: this.alarm(one.name, one.default_version), current: one.name === this.current }));
    refill(byId("detectors"), content, (links) => links.map(link));
  }
}

function link({ name, default_version, aliases, alarm, current }) {
  const named = Object.entries(aliases).filter(([, version]) => version === default_version).map(([alias]) => alias);
  const serves = html("small", {}, [`version ${default_version}`, ...named].join(" · "));
  const title = html("span", {}, name, alarm ? badge("outlier", "drift") : "");
  return html("li", {}, html("a", { href: `#/${name}`, "aria-current": current && "page", "data-focus": name }, title, serves));
}
