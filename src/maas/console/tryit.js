// A form that sends inputs to a deployment: predict and explain.

import { ApiError, get, part, post } from "/assets/api.js";
import { count, formatNumber, h, pretty, put } from "/assets/dom.js";
import { bars, heatMap } from "/assets/pictures.js";

const MOST_BARS = 20;

export function tryIt(deployment) {
  const area = h("textarea", { spellcheck: "false", rows: 6, id: `in-${deployment.name}` }, "");
  const answer = h("div", { class: "answer", "aria-live": "polite" });
  const about = h("p", { class: "soft" }, "Loading the signature …");
  let signature = null;

  const actionButton = (name, work) => h("button", { class: name === "Explain" ? "second" : null, onclick: async (event) => {
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
    put(about, "Inputs: ", tensors(signature.inputs), ". Outputs: ", tensors(signature.outputs), ".");
  }).catch((error) => put(about, error.message));

  return h("div", { class: "try" },
    h("div", {}, about,
      h("label", { for: area.id, class: "hidden" }, "Inputs as JSON"), area,
      h("div", { class: "row" },
        actionButton("Predict", (inputs) => predicted(deployment.name, inputs, signature)),
        actionButton("Explain", (inputs) => explained(deployment.name, inputs)))),
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
    throw new ApiError(0, `Not JSON: ${error.message}`);
  }
  throw new ApiError(0, 'The inputs must be a JSON object, for example {"x": [1, 2]}.');
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
    h("p", { class: "soft" }, `${took.toFixed(1)} ms, measured in this page`),
    h("details", {}, h("summary", {}, "JSON"), h("pre", {}, pretty(outputs))),
  ];
}

function shown(value, spec) {
  if (!Array.isArray(value)) return h("p", { class: "big" }, formatNumber(value), spec?.units ? ` ${spec.units}` : "");
  const flat = value.length <= MOST_BARS && value.every((v) => typeof v === "number");
  if (!flat) return h("pre", {}, pretty(value));
  const best = Math.max(...value);
  return bars(value.map((v, at) => ({ name: String(spec?.labels?.[at] ?? at), value: v, strong: v === best })), spec?.name ?? "values");
}

async function explained(name, inputs) {
  const explanation = await post(`/explain/${part(name)}`, JSON.stringify({ inputs, samples: 1024 }));
  const target = explanation.label === null ? explanation.output : `${explanation.output}[${explanation.label}]`;
  const top = [...explanation.attributions].sort((a, b) => Math.abs(b.shapley) - Math.abs(a.shapley)).slice(0, MOST_BARS);
  const rest = explanation.attributions.length - top.length;
  return [
    h("h4", {}, "Explanation of ", h("code", {}, target), ` = ${formatNumber(explanation.prediction)}`),
    h("p", {}, `Baseline (${explanation.background === "zeros" ? "all inputs zero" : `mean of ${count(explanation.background_rows)} background rows`}): ${formatNumber(explanation.baseline)}. Contributions to the difference:`),
    explanation.image ? heatMap(explanation, inputs)
      : bars(top.map((a) => ({ name: a.name, note: `= ${formatNumber(a.value)}${a.units ? ` ${a.units}` : ""}`, value: a.shapley, error: a.standard_error })), "Shapley values"),
    rest > 0 && !explanation.image ? h("p", { class: "soft" }, `and ${count(rest)} smaller ones`) : null,
    h("p", { class: "soft" }, `Shapley values by ${explanation.method}: ${count(explanation.rows)} rows in ${count(explanation.calls)} calls, seed ${explanation.seed}; additivity error ${formatNumber(Math.abs(explanation.additivity_error))}.`),
  ];
}
