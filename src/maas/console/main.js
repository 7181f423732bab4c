// The console: what runs, what there is to call, who called.

import { forget, get, key, leaveButton, signIn } from "/assets/api.js";
import { count, duration, h, put, section, size } from "/assets/dom.js";
import { models } from "/assets/models.js";
import { keys, usage } from "/assets/people.js";
import { tryIt } from "/assets/tryit.js";

const POLL_MS = 2000;
const main = document.getElementById("main");
const facts = document.getElementById("facts");

function enter() {
  leaveButton();
  const places = { deployments: h("div"), models: h("div"), usage: h("div"), keys: h("div") };
  put(main, Object.values(places));
  const cards = new Map();
  let seen = false;
  const poll = async () => {
    if (!document.hidden) {
      try {
        const status = await get("/api/v1/status");
        put(facts, `${status.version}, up ${duration(status.uptime_s)}`);
        deployments(places.deployments, cards, status.deployments);
        if (!seen) {
          seen = true;
          fill(places.models, "Models", models);
          fill(places.usage, "Usage", usage);
          fill(places.keys, "Keys", keys);
        }
      } catch (error) {
        if (error.status === 401) { leave("This key was revoked."); return; }
        put(facts, error.status === 403 ? "" : error.message);
        if (error.status === 403) { put(main, await onlyCalls()); return; }
      }
    }
    setTimeout(poll, POLL_MS);
  };
  poll();
}

/** For a key without the scope `read`: what it is for, and the names that it may be told. */
async function onlyCalls() {
  const listed = await get("/v1/models").catch(() => ({ data: [] }));
  const names = listed.data.map((m) => m.id).join(", ");
  return section("What this key may do", "", h("p", { class: "empty" },
    "This key calls deployments and sees nothing else here: ask whoever made it for a deployment's name, and see ",
    h("a", { href: "/docs" }, "/docs"), " for how to call it", names ? `. Under /v1 there are: ${names}.` : "."));
}

function leave(why) {
  forget();
  leaveButton();
  put(facts);
  signIn(main, enter, why);
}

async function fill(place, title, load) {
  try {
    put(place, await load());
  } catch (error) {
    put(place, error.status === 401 ? null : refused(title, error));
  }
}

const refused = (title, error) => section(title, "", h("p", { class: "empty" }, error.message));

/** Cards are kept over polls, so that nobody's typing is lost. */
function deployments(place, cards, found) {
  const names = new Set(found.map((d) => d.name));
  for (const name of [...cards.keys()]) if (!names.has(name)) cards.delete(name);
  for (const d of found) {
    if (!cards.has(d.name)) cards.set(d.name, card(d));
    cards.get(d.name).update(d);
  }
  const wanted = found.map((d) => cards.get(d.name).element);
  const shown = place.querySelector(".stack");
  if (shown && wanted.length && wanted.length === shown.children.length && wanted.every((e, at) => e === shown.children[at])) return;
  put(place, section("Deployments", "", wanted.length ? h("div", { class: "stack" }, wanted)
    : h("p", { class: "empty" }, "Nothing is deployed. ", h("code", {}, "maas deploy NAME --model MODEL"), " makes a model answer under a name.")));
}

function card(first) {
  const head = h("div", { class: "head" });
  const why = h("p", { class: "why" });
  const facts = h("p", { class: "soft" });
  const box = h("details", {}, h("summary", {}, "Try it"));
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) box.append(tryIt(first));
  });
  let target = "";
  const element = h("article", { class: "card" }, head, why, facts, box);
  return {
    element,
    update(d) {
      first = d;
      const now = JSON.stringify(d.targets);
      if (target && target !== now) { while (box.children.length > 1) box.lastChild.remove(); box.open = false; }
      target = now;
      put(head, h("b", {}, d.name), h("span", { class: `pill ${d.state}` }, d.state), d.default ? h("span", { class: "pill" }, "default") : null,
        h("code", { class: "end soft" }, `POST /predict/${d.name}`));
      put(why, d.reason);
      why.hidden = !d.reason;
      const total = d.targets.reduce((sum, t) => sum + t.weight, 0) || 1;
      const split = d.targets.map((t) => `${d.model}:${t.version} ${t.variant}${d.targets.length > 1 ? ` ${Math.round((100 * t.weight) / total)} %` : ""}`);
      const memory = d.replicas.reduce((sum, r) => sum + (r.rss_bytes ?? 0), 0);
      const waiting = d.replicas.reduce((sum, r) => sum + (r.queued ?? 0), 0);
      const served = d.replicas.reduce((sum, r) => sum + (r.served ?? 0), 0);
      put(facts, [split.join(" + "), `${d.ready} of ${d.desired} replicas ready`, memory ? size(memory) : null,
        `${count(served)} answered`, waiting ? `${count(waiting)} waiting` : null, `revision ${d.revision}`].filter(Boolean).join(" · "));
    },
  };
}

leaveButton();
if (key()) enter();
else signIn(main, enter);
