// Creates all elements. Text is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function make(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  put(element, ...children);
  return element;
}

/** An HTML element: h("p", { class: "soft" }, "text", otherElement, null). */
export function h(tag, properties, ...children) {
  return make(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function s(tag, properties, ...children) {
  return make(document.createElementNS(SVG, tag), properties, children);
}

/** Replaces the children of `element`; strings and numbers become text, null and false are skipped. */
export function put(element, ...children) {
  const nodes = children.flat(3).filter((c) => c !== null && c !== undefined && c !== false);
  element.replaceChildren(...nodes.map((c) => (c instanceof Node ? c : String(c))));
  return element;
}

/** A table with a header row; the columns in `numeric` are right-aligned. */
export function table(head, rows, numeric = []) {
  const cell = (tag, value, at) =>
    h(tag, { class: numeric.includes(at) ? "number" : null, scope: tag === "th" ? "col" : null }, value);
  return h("div", { class: "wide" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((v, at) => cell("th", v, at)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((v, at) => cell("td", v, at)))))));
}

export function section(title, note, ...children) {
  return h("section", {}, h("h2", {}, title), note ? h("p", { class: "soft" }, note) : null, children);
}

// -- numbers and times ---------------------------------------------------------------------------

export const count = (n) => Number(n).toLocaleString("en-US");

const SMALLEST_DECIMAL = 1e-4;
const LARGEST_DECIMAL = 1e15;

/** Four significant digits and the whole integer part, with thousands separators: 0.9612, 10,630. */
export function formatNumber(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < SMALLEST_DECIMAL || size >= LARGEST_DECIMAL)) {
    return new Intl.NumberFormat("en-US", { notation: "scientific", maximumSignificantDigits: 4 }).format(value).toLowerCase();
  }
  const exponent = size === 0 ? 0 : Math.floor(Math.log10(size));
  return new Intl.NumberFormat("en-US", { maximumFractionDigits: Math.max(0, 3 - exponent) }).format(value);
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${at ? bytes.toFixed(bytes < 10 ? 1 : 0) : bytes} ${units[at]}`;
}

export function day(seconds) {
  return seconds ? new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC" : "";
}

export function duration(seconds) {
  if (seconds < 1) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** JSON with the innermost lists on one line each, so that an image looks like one. */
export function pretty(value, indent = "") {
  const inner = indent + "  ";
  if (Array.isArray(value)) {
    if (value.every((v) => v === null || typeof v !== "object")) return `[${value.map((v) => JSON.stringify(v)).join(", ")}]`;
    return `[\n${value.map((v) => inner + pretty(v, inner)).join(",\n")}\n${indent}]`;
  }
  if (value !== null && typeof value === "object") {
    const lines = Object.entries(value).map(([k, v]) => `${inner}${JSON.stringify(k)}: ${pretty(v, inner)}`);
    return lines.length ? `{\n${lines.join(",\n")}\n${indent}}` : "{}";
  }
  return JSON.stringify(value);
}
