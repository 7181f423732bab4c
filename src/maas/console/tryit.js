// A deployment's box to call it: predict, and why.

import { Refused, get, part, post } from "/assets/api.js";
import { count, h, pretty, put, short } from "/assets/dom.js";
import { bars, heatMap } from "/assets/pictures.js";

const MOST_BARS = 20;

export function tryIt(deployment) {
  const area = h("textarea", { spellcheck: "false", rows: 6, id: `in-${deployment.name}` }, "");
  const answer = h("div", { class: "answer", "aria-live": "polite" });
  const about = h("p", { class: "soft" }, "Fetching its signature …");
  let signature = null;

  const ask = (name, work) => h("button", { class: name === "Explain" ? "second" : null, onclick: async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      put(answer, await work(parsed(area.value)));
    } catch (error) {
      put(answer, h("p", { class: "bad", role: "alert" }, error.message));
    } finally {
      button.disabled = false;
    }
  } }, name);

  const target = deployment.targets[0];
  get(`/api/v1/models/${part(deployment.model)}/versions/${part(target.version)}`).then((version) => {
    signature = version.manifest.signature;
    area.value = pretty(signature.example);
    const lines = area.value.split("\n").map((line) => Math.ceil((line.length + 1) / 50));
    area.rows = Math.min(14, Math.max(3, lines.reduce((a, b) => a + b)));
    put(about, "Takes ", tensors(signature.inputs), " and gives ", tensors(signature.outputs), ".");
  }).catch((error) => put(about, error.message));

  return h("div", { class: "try" },
    h("div", {}, about,
      h("label", { for: area.id, class: "hidden" }, "Inputs as JSON"), area,
      h("div", { class: "row" },
        ask("Predict", (inputs) => predicted(deployment.name, inputs, signature)),
        ask("Explain", (inputs) => explained(deployment.name, inputs)))),
    answer);
}

function tensors(specs) {
  return specs.map((t, at) => [at ? ", " : "", h("code", {}, t.name), ` ${t.datatype} [${t.shape.join(", ")}]${t.units ? ` in ${t.units}` : ""}`]);
}

function parsed(text) {
  try {
    const inputs = JSON.parse(text);
    if (inputs !== null && typeof inputs === "object" && !Array.isArray(inputs)) return inputs;
  } catch (error) {
    throw new Refused(0, `Not JSON: ${error.message}`);
  }
  throw new Refused(0, 'The inputs are a JSON object, for example {"x": [1, 2]}.');
}

async function predicted(name, inputs, signature) {
  const started = performance.now();
  const outputs = await post(`/predict/${part(name)}`, JSON.stringify(inputs));
  const took = performance.now() - started;
  return [
    Object.entries(outputs).map(([output, value]) => {
      const spec = signature?.outputs.find((t) => t.name === output);
      return h("div", { class: "output" }, h("h4", {}, output), shown(value, spec));
    }),
    h("p", { class: "soft" }, `${took.toFixed(1)} ms from this page and back`),
    h("details", {}, h("summary", {}, "JSON"), h("pre", {}, pretty(outputs))),
  ];
}

function shown(value, spec) {
  if (!Array.isArray(value)) return h("p", { class: "big" }, short(value), spec?.units ? ` ${spec.units}` : "");
  const flat = value.length <= MOST_BARS && value.every((v) => typeof v === "number");
  if (!flat) return h("pre", {}, pretty(value));
  const best = Math.max(...value);
  return bars(value.map((v, at) => ({ name: String(spec?.labels?.[at] ?? at), value: v, strong: v === best })), spec?.name ?? "values");
}

async function explained(name, inputs) {
  const found = await post(`/explain/${part(name)}`, JSON.stringify({ inputs, samples: 1024 }));
  const what = found.label === null ? found.output : `${found.output}[${found.label}]`;
  const top = [...found.attributions].sort((a, b) => Math.abs(b.shapley) - Math.abs(a.shapley)).slice(0, MOST_BARS);
  const rest = found.attributions.length - top.length;
  return [
    h("h4", {}, "Why ", h("code", {}, what), ` is ${short(found.prediction)}`),
    h("p", {}, `${found.background === "zeros" ? "For zeros" : `On average over ${count(found.background_rows)} usual rows`} the model says ${short(found.baseline)}. What moved it from there:`),
    found.image ? heatMap(found, inputs)
      : bars(top.map((a) => ({ name: a.name, note: `= ${short(a.value)}${a.units ? ` ${a.units}` : ""}`, value: a.shapley, error: a.standard_error })), "Shapley values"),
    rest > 0 && !found.image ? h("p", { class: "soft" }, `and ${rest} that moved it less`) : null,
    h("p", { class: "soft" }, `Shapley values by ${found.method}: ${count(found.rows)} rows in ${count(found.calls)} calls, seed ${found.seed}; they miss the prediction by ${short(Math.abs(found.additivity_error))}.`),
  ];
}
