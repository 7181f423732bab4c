// The key, and calls with it. The key stays in this tab (sessionStorage) and goes nowhere else.

import { h, put } from "/assets/dom.js";

const KEY = "maas-key";

export const key = () => sessionStorage.getItem(KEY) ?? "";
export const forget = () => sessionStorage.removeItem(KEY);

/** What the server refused or could not do, in its own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body) {
  const headers = { authorization: `Bearer ${key()}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, cache: "no-store" });
  } catch {
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, String(problem.detail ?? problem.error ?? `The server said ${answer.status}.`));
  }
  return answer;
}

export const get = async (path) => (await request("GET", path)).json();
export const getText = async (path) => (await request("GET", path)).text();
export const post = async (path, text) => (await request("POST", path, text)).json();

/** A part of a path from a name. */
export const part = encodeURIComponent;

/** Asks for a key in `main` until the server knows it, then calls `enter`. */
export function signIn(main, enter, why = "") {
  const field = h("input", { type: "password", id: "key", name: "key", autocomplete: "off", spellcheck: "false",
    placeholder: "maas_…", required: true, "aria-describedby": "where" });
  const wrong = h("p", { class: "bad", role: "alert" }, why);
  const form = h("form", { class: "door", onsubmit: async (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, field.value.trim());
    try {
      await get("/openapi.json");
    } catch (error) {
      if (error.status === 401) {
        forget();
        put(wrong, "This key is not known here, or it was revoked.");
        field.select();
        return;
      }
      if (error.status !== 403) { put(wrong, error.message); return; }
    }
    enter();
  } },
    h("h1", {}, "Which key?"),
    h("label", { for: "key" }, "Key"),
    h("div", { class: "row" }, field, h("button", { type: "submit" }, "Enter")),
    wrong,
    h("p", { id: "where", class: "soft" }, "On the server's machine the first key is in ",
      h("code", {}, "~/.maas/admin.key"), ". Make others with ", h("code", {}, "maas keys create NAME"),
      ". The key is kept in this tab until you close it."));
  put(main, form);
  field.focus();
}

/** The button that forgets the key. */
export function leaveButton() {
  const button = document.getElementById("leave");
  button.hidden = !key();
  button.onclick = () => { forget(); location.reload(); };
}
