// Usage and API keys.

import { get } from "/assets/api.js";
import { count, day, duration, h, section, table } from "/assets/dom.js";

export async function usage() {
  const { usage: lines } = await get("/api/v1/usage");
  const totals = new Map();
  for (const line of lines) {
    const name = line.key_name || line.key_id;
    const place = JSON.stringify([line.key_id, line.deployment, line.operation]);
    const sum = totals.get(place) ?? { name, ...line, requests: 0, rows: 0, errors: 0, compute_us: 0 };
    for (const field of ["requests", "rows", "errors", "compute_us"]) sum[field] += line[field];
    totals.set(place, sum);
  }
  const rows = [...totals.values()].sort((a, b) => b.requests - a.requests);
  return section("Usage", rows.length ? "Each response is counted once, also after a crash." : "",
    rows.length
      ? table(["key", "deployment", "operation", "requests", "rows", "errors", "model time"],
        rows.map((r) => [r.name, r.deployment, r.operation, count(r.requests), count(r.rows), count(r.errors), duration(r.compute_us / 1e6)]), [3, 4, 5, 6])
      : h("p", { class: "empty" }, "There is no usage yet."));
}

export async function keys() {
  const { keys: list } = await get("/api/v1/keys");
  return section("Keys", "", table(["name", "scopes", "created", ""],
    list.map((k) => [k.name, k.scopes.join(", "), day(k.created_at), k.revoked_at ? h("span", { class: "bad" }, `revoked ${day(k.revoked_at)}`) : ""])),
    h("p", { class: "soft" }, h("code", {}, "maas keys create NAME"), " creates a key; ", h("code", {}, "maas keys revoke ID"), " revokes one within a second."));
}
