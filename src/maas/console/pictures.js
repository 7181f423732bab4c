// Bars and heat maps as SVG.

import { formatNumber, h, s } from "/assets/dom.js";

/** Horizontal bars from zero. rows: [{ name, value, note?, error?, strong? }] */
export function bars(rows, label) {
  const values = rows.flatMap((r) => [r.value - (r.error ?? 0), r.value + (r.error ?? 0)]);
  const low = Math.min(0, ...values), high = Math.max(0, ...values);
  const span = high - low || 1;
  const x = (v) => ((v - low) / span) * 100;
  const line = (row) => {
    const from = Math.min(x(0), x(row.value)), width = Math.abs(x(row.value) - x(0));
    const drawing = s("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { x: from, y: 1.5, width: Math.max(width, 0.15), height: 9,
        class: row.value < 0 ? "bar-minus" : row.strong === false ? "bar-weak" : "bar-plus" }),
      row.error ? s("line", { x1: x(row.value - row.error), x2: x(row.value + row.error), y1: 6, y2: 6, class: "whisker" }) : null,
      low < 0 ? s("line", { x1: x(0), x2: x(0), y1: 0, y2: 12, class: "zero" }) : null);
    return h("tr", {},
      h("th", { scope: "row" }, row.name, row.note ? h("small", {}, row.note) : null),
      h("td", { class: "bar-cell" }, drawing),
      h("td", { class: "number" }, formatNumber(row.value), row.unit ? ` ${row.unit}` : ""));
  };
  return h("table", { class: "bars", "aria-label": label }, h("tbody", {}, rows.map(line)));
}

/** The [height][width] pixels of one channel of an image input, for the background. */
function plane(values, image) {
  let grid = values;
  const depth = (v) => (Array.isArray(v) ? 1 + depth(v[0]) : 0);
  if (depth(grid) === 4) grid = grid[0];
  if (depth(grid) === 3 && image.layout === "chw") grid = grid[0];
  if (depth(grid) === 3) grid = grid.map((row) => row.map((pixel) => pixel[0]));
  return depth(grid) === 2 && grid.length === image.height ? grid : null;
}

/** The image, and beside it the contribution of each patch. */
export function heatMap(explanation, inputs) {
  const image = explanation.image;
  const pixels = plane(inputs[image.input], image);
  const most = Math.max(...explanation.attributions.map((a) => Math.abs(a.shapley))) || 1;
  const background = () => {
    if (!pixels) return [];
    const all = pixels.flat();
    const low = Math.min(...all), high = Math.max(...all);
    return pixels.flatMap((row, y) => row.map((v, x) =>
      s("rect", { x, y, width: 1.02, height: 1.02, class: "ink", "fill-opacity": ((v - low) / (high - low || 1)).toFixed(3) })));
  };
  const patches = explanation.attributions.filter((a) => a.input === image.input).map((a) => {
    const region = a.region.length === 3 ? (image.layout === "chw" ? a.region.slice(1) : a.region.slice(0, 2)) : a.region;
    const [[top, bottom], [left, right]] = region;
    return s("rect", { x: left, y: top, width: right - left, height: bottom - top,
      class: a.shapley < 0 ? "bar-minus" : "bar-plus", "fill-opacity": (0.85 * Math.abs(a.shapley) / most).toFixed(3) },
      s("title", {}, `${a.name}: ${formatNumber(a.shapley)} ± ${formatNumber(a.standard_error)}`));
  });
  const frame = (title, ...marks) => h("figure", {},
    s("svg", { viewBox: `0 0 ${image.width} ${image.height}`, class: "image", role: "img", "aria-label": title }, marks),
    h("figcaption", {}, title));
  return h("div", { class: "images" },
    frame("Input", background()),
    frame("Blue raises the output, red lowers it", background().map((r) => (r.setAttribute("class", "ink faint"), r)), patches));
}
