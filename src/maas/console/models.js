// Models, their versions and their evidence.

import { get, part } from "/assets/api.js";
import { count, day, formatNumber, h, put, section, size, table } from "/assets/dom.js";

const FIRST = ["accuracy", "f1_macro", "recall_macro", "precision_macro", "f1", "recall", "precision", "roc_auc", "roc_auc_macro", "log_loss", "ece", "r2", "mae", "rmse"];
const MOST = 8;

export async function models() {
  const { models: list } = await get("/api/v1/models");
  if (!list.length) {
    return section("Models", "", h("p", { class: "empty" }, "There are no models yet. ", h("code", {}, "maas run examples/article/recipe.toml"), " builds, publishes and deploys one."));
  }
  return section("Models", "", h("div", { class: "stack" }, list.map(model)));
}

function model(line) {
  const inside = h("div", { class: "inside" });
  const box = h("details", { class: "card" },
    h("summary", {}, h("b", {}, line.name), h("span", { class: "soft" }, line.task),
      h("span", { class: "soft end" }, `${line.versions} ${line.versions === 1 ? "version" : "versions"}, newest ${day(line.updated_at)}`)),
    inside);
  box.addEventListener("toggle", () => {
    if (box.open && !inside.hasChildNodes()) open(line, inside);
  });
  return box;
}

async function open(line, inside) {
  put(inside, h("p", { class: "soft" }, "…"));
  try {
    const { versions } = await get(`/api/v1/models/${part(line.name)}`);
    const details = h("div");
    const pick = h("select", { "aria-label": "Version", onchange: () => show(line.name, pick.value, details) },
      [...versions].reverse().map((v) => h("option", { value: v.number }, `version ${v.number}`)));
    put(inside, versions.length > 1 ? pick : null, details);
    await show(line.name, versions.at(-1).number, details);
  } catch (error) {
    put(inside, h("p", { class: "bad" }, error.message));
  }
}

async function show(name, number, element) {
  const v = await get(`/api/v1/models/${part(name)}/versions/${part(number)}`);
  const metricsEvidence = v.evidence.findLast((e) => e.kind === "metrics");
  const report = v.evidence.findLast((e) => e.kind === "report" && e.file);
  const { signature } = v.manifest;
  const variants = v.variants ?? v.manifest.variants; // those that were added since are in the first
  put(element,
    v.manifest.description ? h("p", {}, v.manifest.description) : null,
    metricsEvidence ? metrics(metricsEvidence) : h("p", { class: "soft" }, "No metrics are stored for this version."),
    report ? h("p", {}, h("a", { class: "button", href: `/assets/report.html#${report.file.sha256}`, target: "_blank", rel: "opener" }, "Open the report")) : null,
    h("dl", {},
      h("dt", {}, "published"), h("dd", {}, `version ${v.number}, ${day(v.created_at)}${v.created_by ? ` by ${v.created_by}` : ""}`),
      h("dt", {}, "inputs"), h("dd", {}, tensors(signature.inputs)),
      h("dt", {}, "outputs"), h("dd", {}, tensors(signature.outputs)),
      h("dt", {}, "files"), h("dd", {}, variants.flatMap((variant) => variant.files.map((f) =>
        h("div", {}, `${variant.name}: ${f.name} (${variant.runtime}, ${size(f.size)}) `, h("code", { class: "soft", title: f.sha256 }, f.sha256.slice(0, 12)))))),
      v.evidence.length ? [h("dt", {}, "evidence"), h("dd", {}, [...new Set(v.evidence.map((e) => e.kind))].join(", "))] : null));
}

function metrics(evidence) {
  const all = Object.entries(evidence.values.metrics ?? {});
  const rank = ([name]) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  const rows = all.sort((a, b) => rank(a) - rank(b)).slice(0, MOST);
  const intervals = evidence.values.intervals ?? {};
  const how = evidence.how;
  return h("div", {},
    h("ul", { class: "tiles" }, rows.map(([name, value]) => {
      const interval = intervals[name];
      return h("li", {}, h("span", {}, name.replaceAll("_", " ")), h("b", {}, formatNumber(value)),
        interval ? h("span", {}, `${formatNumber(interval[0])} to ${formatNumber(interval[1])}`) : null);
    })),
    h("p", { class: "soft" }, `Measured on ${count(how.rows ?? 0)} rows`,
      how.confidence ? `; ${how.confidence * 100} % intervals by ${how.method}` : "",
      how.data_digest ? ["; data ", h("code", { title: how.data_digest }, String(how.data_digest).slice(0, 12))] : "", ".",
      all.length > rows.length ? ` ${all.length - rows.length} more in the report.` : ""));
}

function tensors(specs) {
  return table(["name", "type", "shape", "units", "description"], specs.map((t) => [h("code", {}, t.name), t.datatype, `[${["n", ...t.shape].join(", ")}]`, t.units ?? "",
    t.description ?? (t.labels?.length ? t.labels.slice(0, 12).join(", ") + (t.labels.length > 12 ? " …" : "") : "")]));
}
