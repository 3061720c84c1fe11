// A section of the page that shows what one address answers.

import { ask, problems } from "./api.js";
import { byId } from "./dom.js";

/** Its answer is drawn into the element `id`, which is hidden until there is one; `id`-trouble has the sentence of a problem. */
export class Panel {
  constructor(id, draw) {
    this.id = id;
    this.draw = draw;
    this.path = null;
    this.answer = null; // the latest
  }

  /** Show what `path` answers from now on; answers of another one are dropped. */
  about(path) {
    if (path === this.path) return;
    this.path = path;
    this.answer = null;
    byId(this.id).hidden = true;
    byId(`${this.id}-trouble`).textContent = "";
    this.look();
  }

  async look() {
    const { path } = this;
    if (!path) return;
    const [answer, trouble] = await ask(path).then((found) => [found, ""], problems((text) => [null, text]));
    if (path !== this.path) return;
    byId(`${this.id}-trouble`).textContent = trouble;
    if (!answer) return;
    this.answer = answer;
    byId(this.id).hidden = false;
    this.draw(answer);
  }
}
