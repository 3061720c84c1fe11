// Elements and number formats. Content always enters as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element; attributes that start with "on" are listeners, those that are false or null are left out. */
export const html = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const formatter = (options) => {
  const format = new Intl.NumberFormat("en", options);
  return (value) => format.format(value);
};

export const whole = formatter({ maximumFractionDigits: 0 });
export const precise = formatter({ maximumSignificantDigits: 5 });
export const brief = formatter({ maximumSignificantDigits: 3 });
export const percent = formatter({ style: "percent", maximumSignificantDigits: 3 });

export const size = (bytes) => (bytes < 1e6 ? `${brief(bytes / 1e3)} kB` : `${brief(bytes / 1e6)} MB`);

export const date = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
