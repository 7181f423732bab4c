// The console: deployments, models, usage and keys.

import { get, key, removeKey, showSignOut, signIn } from "/assets/api.js";
import { count, duration, h, put, section, size } from "/assets/dom.js";
import { models } from "/assets/models.js";
import { keys, usage } from "/assets/access.js";
import { tryIt } from "/assets/tryit.js";

const POLL_MS = 2000;
const main = document.getElementById("main");
const facts = document.getElementById("facts");

function enter() {
  showSignOut();
  const places = { deployments: h("div"), models: h("div"), usage: h("div"), keys: h("div") };
  put(main, Object.values(places));
  const cards = new Map();
  let loaded = false;
  const poll = async () => {
    if (!document.hidden) {
      try {
        const status = await get("/api/v1/status");
        put(facts, `${status.version}, up ${duration(status.uptime_s)}`);
        deployments(places.deployments, cards, status.deployments);
        if (!loaded) {
          loaded = true;
          fill(places.models, "Models", models);
          fill(places.usage, "Usage", usage);
          fill(places.keys, "Keys", keys);
        }
      } catch (error) {
        if (error.status === 401) { signOut("This key was revoked."); return; }
        put(facts, error.status === 403 ? "" : error.message);
        if (error.status === 403) { put(main, await callOnlyPage()); return; }
      }
    }
    setTimeout(poll, POLL_MS);
  };
  poll();
}

/** For a key without the scope `read`: what it may do, and the deployments it may list. */
async function callOnlyPage() {
  const listed = await get("/v1/models").catch(() => ({ data: [] }));
  const names = listed.data.map((m) => m.id).join(", ");
  return section("Access of this key", "", h("p", { class: "empty" },
    "This key may call deployments and see nothing else here. Ask its administrator for the name of a deployment, and see ",
    h("a", { href: "/docs" }, "/docs"), " for the API", names ? `. Deployments under /v1: ${names}.` : "."));
}

function signOut(reason) {
  removeKey();
  showSignOut();
  put(facts);
  signIn(main, enter, reason);
}

async function fill(place, title, load) {
  try {
    put(place, await load());
  } catch (error) {
    put(place, error.status === 401 ? null : refused(title, error));
  }
}

const refused = (title, error) => section(title, "", h("p", { class: "empty" }, error.message));

/** Cards persist over polls, so that text being typed is not lost. */
function deployments(place, cards, list) {
  const names = new Set(list.map((d) => d.name));
  for (const name of [...cards.keys()]) if (!names.has(name)) cards.delete(name);
  for (const d of list) {
    if (!cards.has(d.name)) cards.set(d.name, card(d));
    cards.get(d.name).update(d);
  }
  const elements = list.map((d) => cards.get(d.name).element);
  const stack = place.querySelector(".stack");
  if (stack && elements.length && elements.length === stack.children.length && elements.every((e, at) => e === stack.children[at])) return;
  put(place, section("Deployments", "", elements.length ? h("div", { class: "stack" }, elements)
    : h("p", { class: "empty" }, "Nothing is deployed. ", h("code", {}, "maas deploy NAME --model MODEL"), " deploys a model under a name.")));
}

function card(first) {
  const head = h("div", { class: "head" });
  const reason = h("p", { class: "why" });
  const facts = h("p", { class: "soft" });
  const box = h("details", {}, h("summary", {}, "Try it"));
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) box.append(tryIt(first));
  });
  let target = "";
  const element = h("article", { class: "card" }, head, reason, facts, box);
  return {
    element,
    update(d) {
      first = d;
      const now = JSON.stringify(d.targets);
      if (target && target !== now) { while (box.children.length > 1) box.lastChild.remove(); box.open = false; }
      target = now;
      put(head, h("b", {}, d.name), h("span", { class: `pill ${d.state}` }, d.state), d.default ? h("span", { class: "pill" }, "default") : null,
        h("code", { class: "end soft" }, `POST /predict/${d.name}`));
      put(reason, d.reason);
      reason.hidden = !d.reason;
      const total = d.targets.reduce((sum, t) => sum + t.weight, 0) || 1;
      const split = d.targets.map((t) => `${d.model}:${t.version} ${t.variant}${d.targets.length > 1 ? ` ${Math.round((100 * t.weight) / total)} %` : ""}`);
      const memory = d.replicas.reduce((sum, r) => sum + (r.rss_bytes ?? 0), 0);
      const waiting = d.replicas.reduce((sum, r) => sum + (r.queued ?? 0), 0);
      const served = d.replicas.reduce((sum, r) => sum + (r.served ?? 0), 0);
      put(facts, [split.join(" + "), `${d.ready} of ${d.desired} replicas ready`, memory ? size(memory) : null,
        `${count(served)} served`, waiting ? `${count(waiting)} queued` : null, `revision ${d.revision}`].filter(Boolean).join(" · "));
    },
  };
}

showSignOut();
if (key()) enter();
else signIn(main, enter);
