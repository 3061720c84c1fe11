// Elements and number formats. Content always enters as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element; attributes that start with "on" are listeners, those that are false or null are left out. */
export const html = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

/** Text that others chose, such as a key or a file's name: in whichever direction it is written, the text around it stays in its own. */
export const foreign = (text) => html("bdi", { title: text }, text);

export const cell = (...content) => html("td", {}, ...content);

export const number = (text) => html("td", { class: "number" }, text);

export const rowHeader = (...content) => html("th", { scope: "row" }, ...content);

export const badge = (kind, text) => html("span", { class: `badge ${kind}` }, text);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const contents = new WeakMap();

/** Whether `element` was told to show this already. */
export function shows(element, content) {
  const text = JSON.stringify(content);
  const same = contents.get(element) === text;
  contents.set(element, text);
  return same;
}

/** Fill `element` with `children(content)` unless it shows this content already; focus stays on what has the same `data-focus`. */
export function refill(element, content, children) {
  if (shows(element, content)) return;
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.focus;
  element.replaceChildren(...children(content));
  if (focused) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

const formatter = (options) => {
  const format = new Intl.NumberFormat("en", options);
  return (value) => format.format(value);
};

/** As few characters as a number needs, however large or small it is. */
const short = (digits) => {
  const [plain, powers] = ["standard", "scientific"].map((notation) => formatter({ maximumSignificantDigits: digits, notation }));
  return (value) => (value === 0 || (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e6) ? plain : powers)(value);
};

export const whole = formatter({ maximumFractionDigits: 0 });
export const precise = short(5);
export const brief = short(3);
export const percent = formatter({ style: "percent", maximumSignificantDigits: 3 });

export const count = (amount, noun) => `${whole(amount)} ${noun}${amount === 1 ? "" : "s"}`;

export const size = (bytes) => (bytes < 1e6 ? `${brief(bytes / 1e3)} kB` : `${brief(bytes / 1e6)} MB`);

export const date = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

export const time = (text) => html("time", { datetime: text }, date(text));

/** A time not long ago: that of the day, and the day only where it is another. */
export function recent(text) {
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  return html("time", { datetime: text, title: date(text) }, today ? clock(at) : at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }));
}
