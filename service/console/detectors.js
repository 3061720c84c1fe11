// The list of detectors: searched, and a page at a time, however many there are.

import { badge, byId, html, refill, whole } from "./dom.js";

const PAGE = 50;
const FEW = 8; // that nobody needs to search among

export class Detectors {
  constructor() {
    this.all = [];
    this.page = 0;
    this.current = null;
    byId("search").addEventListener("input", () => this.turn(0));
    byId("earlier").addEventListener("click", () => this.turn(this.page - 1));
    byId("later").addEventListener("click", () => this.turn(this.page + 1));
  }

  /** `alarm(name, version)` says whether a detector has drifted. */
  show(all, current, alarm) {
    this.all = all;
    this.alarm = alarm;
    if (this.current !== current) {
      this.current = current;
      const at = this.found().findIndex(({ name }) => name === current);
      this.page = Math.max(0, Math.floor(at / PAGE));
    }
    this.draw();
  }

  turn(page) {
    this.page = page;
    this.draw();
  }

  found() {
    const wanted = byId("search").value.trim().toLowerCase();
    return wanted ? this.all.filter(({ name }) => name.toLowerCase().includes(wanted)) : this.all;
  }

  draw() {
    const found = this.found();
    this.page = Math.min(this.page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    const first = this.page * PAGE;
    const page = found.slice(first, first + PAGE);
    const last = first + page.length;
    byId("find").hidden = this.all.length <= FEW;
    byId("pager").hidden = found.length <= PAGE;
    byId("earlier").disabled = first === 0;
    byId("later").disabled = last === found.length;
    byId("range").textContent = found.length > PAGE ? `${whole(first + 1)}–${whole(last)} of ${whole(found.length)}` : "";
    byId("found").textContent = this.all.length && !found.length ? "None has this in its name." : "";
    const content = page.map((one) => ({ ...one, versions: [], alarm: this.alarm(one.name, one.default_version), current: one.name === this.current }));
    refill(byId("detectors"), content, (links) => links.map(link));
  }
}

function link({ name, default_version, aliases, alarm, current }) {
  const named = Object.entries(aliases).filter(([, version]) => version === default_version).map(([alias]) => alias);
  const serves = html("small", {}, [`version ${default_version}`, ...named].join(" · "));
  const title = html("span", {}, name, alarm ? badge("outlier", "drift") : "");
  return html("li", {}, html("a", { href: `#/${name}`, "aria-current": current && "page", "data-focus": name }, title, serves));
}
