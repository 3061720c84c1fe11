// The question before anything that changes what others get.

import { byId } from "./dom.js";

/** Whether the user agrees. `details`, a promise of elements, are shown as soon as they are there. */
export async function agreed(title, text, details = Promise.resolve([])) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  const place = byId("confirm-details");
  place.replaceChildren();
  dialog.returnValue = "";
  dialog.showModal();
  const closed = new Promise((close) => dialog.addEventListener("close", close, { once: true }));
  details.then((elements) => byId("confirm-title").textContent === title && place.replaceChildren(...elements));
  await closed;
  return dialog.returnValue === "yes";
}
