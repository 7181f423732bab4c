// API documentation, rendered from the OpenAPI document of the server.

import { get, key, showSignOut, signIn } from "/assets/api.js";
import { h, pretty, put } from "/assets/dom.js";

const main = document.getElementById("main");
const ORDER = ["predict", "explain", "Open Inference Protocol v2", "models", "files", "deployments", "keys", "usage", "jobs", "status", "logs", "health", "openapi"];
let schemas = {};

async function enter() {
  showSignOut();
  try {
    const document = await get("/openapi.json");
    schemas = document.components.schemas;
    put(main, page(document));
    if (location.hash) window.document.getElementById(location.hash.slice(1))?.scrollIntoView();
  } catch (error) {
    if (error.status === 401) signIn(main, enter, error.message);
    else put(main, h("p", { class: "empty" }, error.message));
  }
}

function page(document) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ path, method, ...operation });
    }
  }
  const rank = (tag) => (ORDER.includes(tag) ? ORDER.indexOf(tag) : ORDER.length);
  const tags = [...groups.keys()].sort((a, b) => rank(a) - rank(b));
  return h("div", { class: "docs" },
    h("nav", { class: "toc", "aria-label": "Contents" }, h("ul", {}, [...tags, "schemas"].map((tag) => h("li", {}, h("a", { href: `#${anchor(tag)}` }, title(tag)))))),
    h("div", {},
      h("h1", {}, "The HTTP API"),
      h("p", { class: "lead" }, words(document.info.description)),
      tags.map((tag) => h("section", { id: anchor(tag) }, h("h2", {}, title(tag)), groups.get(tag).map(operation))),
      h("section", { id: "schemas" }, h("h2", {}, "Schemas"), Object.entries(schemas).map(([name, schema]) =>
        h("details", { class: "card", id: `schema-${name}` }, h("summary", {}, h("code", {}, name), schema.description ? h("span", { class: "soft" }, words(schema.description)) : null),
          h("div", { class: "inside" }, fields(schema)))))));
}

const anchor = (tag) => `tag-${tag.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
const title = (tag) => (tag === "openapi" ? "OpenAPI" : tag[0].toUpperCase() + tag.slice(1));
const words = (text) => text.split("`").map((piece, at) => (at % 2 ? h("code", {}, piece) : piece));

function operation(op) {
  const scope = op.security?.[0] ? Object.values(op.security[0])[0][0] : "";
  const answers = Object.entries(op.responses).filter(([status]) => status !== "default");
  return h("details", { class: "card operation", id: op.operationId },
    h("summary", {}, h("span", { class: `method ${op.method}` }, op.method.toUpperCase()), h("code", {}, op.path),
      h("span", { class: "soft" }, op.summary ?? ""), h("span", { class: "pill end" }, scope || "no key")),
    h("div", { class: "inside" },
      op.description ? h("p", {}, words(op.description)) : null,
      op.parameters?.length ? [h("h4", {}, "Parameters"), h("dl", {}, op.parameters.map((p) => [
        h("dt", {}, h("code", {}, p.name), " ", h("span", { class: "soft" }, p.in)), h("dd", {}, kind(p.schema), p.required ? "" : ", optional")]))] : null,
      op.requestBody ? [h("h4", {}, "Body"), content(op.requestBody.content)] : null,
      answers.map(([status, answer]) => [h("h4", {}, `${status} `, h("span", { class: "soft" }, answer.description)), answer.content ? content(answer.content) : null]),
      h("h4", {}, "Example"), h("pre", {}, curl(op))));
}

function content(types) {
  return Object.entries(types).map(([type, media]) => h("div", {}, h("p", { class: "soft" }, type, " ", kind(media.schema)),
    media.schema.$ref ? fields(resolved(media.schema)) : null));
}

const resolved = (schema) => (schema.$ref ? schemas[schema.$ref.split("/").at(-1)] ?? {} : schema);

function fields(schema) {
  if (!schema.properties) return schema.examples ? h("pre", {}, schema.examples.map((e) => JSON.stringify(e)).join("\n")) : null;
  const needed = schema.required ?? [];
  return h("dl", {}, Object.entries(schema.properties).map(([name, property]) => [
    h("dt", {}, h("code", {}, name), needed.includes(name) ? null : h("span", { class: "soft" }, " optional")),
    h("dd", {}, kind(property), property.description ? h("span", { class: "soft" }, " ", words(property.description)) : null)]));
}

/** The type of a value, with links to named schemas. */
function kind(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return h("a", { href: `#schema-${name}`, onclick: () => { window.document.getElementById(`schema-${name}`).open = true; } }, name);
  }
  if (schema.anyOf) return schema.anyOf.map((one, at) => [at ? " or " : "", kind(one)]);
  if (schema.type === "array") return h("span", {}, "list of ", kind(schema.items ?? {}));
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  const low = schema.minimum, high = schema.maximum;
  const range = schema.type === "integer" && high < 2 ** 53 - 1 ? ` from ${low} to ${high}` : "";
  return `${schema.format ?? schema.type ?? "anything"}${range}`;
}

function curl(op) {
  const path = op.path.replaceAll("{sha256}", "SHA256").replace(/\{(\w+)\}/g, (_, name) => name.toUpperCase());
  const lines = [`curl ${op.method === "get" ? "" : `-X ${op.method.toUpperCase()} `}${location.origin}${path}`];
  if (op.security?.length) lines.push('-H "Authorization: Bearer $MAAS_API_KEY"');
  const types = Object.keys(op.requestBody?.content ?? {});
  if (types.includes("application/json")) {
    lines.push("-H 'Content-Type: application/json'", `-d '${sample(op.requestBody.content["application/json"].schema)}'`);
  } else if (types.length) lines.push("--data-binary @FILE");
  return lines.join(" \\\n  ");
}

function sample(schema) {
  const full = resolved(schema);
  if (full.examples) return JSON.stringify(full.examples[0]);
  const value = (s) => {
    const r = resolved(s);
    if (r.examples) return r.examples[0];
    if (r.enum) return r.enum[0];
    if (r.anyOf) return value(r.anyOf[0]);
    if (r.type === "array") return [value(r.items ?? {})];
    if (r.type === "object") return Object.fromEntries((r.required ?? []).map((n) => [n, value(r.properties[n])]));
    return { integer: r.minimum ?? 1, number: 0.5, boolean: true, string: "…" }[r.type] ?? {};
  };
  return pretty(value(full));
}

showSignOut();
if (key()) enter();
else signIn(main, enter);
