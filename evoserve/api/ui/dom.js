// Elements made from data. Text is only ever set as text: names and model output are hostile.

const SVG = "http://www.w3.org/2000/svg";
const CONTROL = /[\p{Cc}\p{Bidi_C}]/gu;

/** An HTML element; `on*` properties are listeners, null and false leave an attribute out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Show `node` in place of all that `parent` holds. */
export function put(parent, ...nodes) {
  parent.replaceChildren(...nodes.filter((node) => node !== null));
}

/** A name for one line: control characters and those that turn the direction are made visible. */
export function plain(text, limit = 200) {
  const shown = String(text).replace(CONTROL, "\ufffd");
  return shown.length > limit ? `${shown.slice(0, limit - 1)}…` : shown;
}

/** Set text only where it differs, so that screen readers are not told twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A table with a caption; rows are lists of text, the first cell of each is its header. */
export function table(caption, head, rows) {
  const cells = ([first, ...rest]) => [
    h("th", { scope: "row" }, first),
    ...rest.map((cell) => h("td", {}, cell)),
  ];
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...cells(row)))),
    ),
  );
}

/** Bytes in the unit that suits them. */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** Three significant digits, or so many. */
export function number(value, digits = 3) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : "–";
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
