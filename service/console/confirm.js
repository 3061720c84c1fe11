// The question before anything that changes what others get.

import { byId, html } from "./dom.js";

let turn = 0;

/** Whether the user agrees. `details`, a promise of elements, are shown once they are there, and `waiting` until then. */
export async function agreed(title, text, waiting = "", details = Promise.resolve([])) {
  const dialog = byId("confirm");
  const mine = ++turn;
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-details").replaceChildren(html("p", {}, waiting));
  dialog.returnValue = "";
  dialog.showModal();
  const closed = new Promise((close) => dialog.addEventListener("close", close, { once: true }));
  details.then((elements) => mine === turn && byId("confirm-details").replaceChildren(...elements));
  await closed;
  return dialog.returnValue === "yes";
}
