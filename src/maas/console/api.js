// API requests with the key. The key stays in this tab (sessionStorage).

import { h, put } from "/assets/dom.js";

const KEY = "maas-key";

export const key = () => sessionStorage.getItem(KEY) ?? "";
export const removeKey = () => sessionStorage.removeItem(KEY);

/** An error response of the server, with its status and message; 0 without a response. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body) {
  const headers = { authorization: `Bearer ${key()}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body, cache: "no-store" });
  } catch {
    throw new ApiError(0, "The server does not respond.");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new ApiError(response.status, String(problem.detail ?? problem.error ?? `The server answered with status ${response.status}.`));
  }
  return response;
}

export const get = async (path) => (await request("GET", path)).json();
export const getText = async (path) => (await request("GET", path)).text();
export const post = async (path, text) => (await request("POST", path, text)).json();

/** A name as one segment of a path. */
export const part = encodeURIComponent;

/** Shows a form for the key in `main` until the server accepts one, then calls `onSignedIn`. */
export function signIn(main, onSignedIn, reason = "") {
  const field = h("input", { type: "password", id: "key", name: "key", autocomplete: "off", spellcheck: "false",
    placeholder: "maas_…", required: true, "aria-describedby": "where" });
  const message = h("p", { class: "bad", role: "alert" }, reason);
  const form = h("form", { class: "sign-in", onsubmit: async (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, field.value.trim());
    try {
      await get("/openapi.json");
    } catch (error) {
      if (error.status === 401) {
        removeKey();
        put(message, "This key is unknown or revoked.");
        field.select();
        return;
      }
      if (error.status !== 403) { put(message, error.message); return; }
    }
    onSignedIn();
  } },
    h("h1", {}, "Sign in"),
    h("label", { for: "key" }, "API key"),
    h("div", { class: "row" }, field, h("button", { type: "submit" }, "Sign in")),
    message,
    h("p", { id: "where", class: "soft" }, "The admin key is on the server, in ",
      h("code", {}, "~/.maas/admin.key"), ". Create other keys with ", h("code", {}, "maas keys create NAME"),
      ". The key stays in this tab until you close it."));
  put(main, form);
  field.focus();
}

/** Shows the sign-out button if there is a key. */
export function showSignOut() {
  const button = document.getElementById("sign-out");
  button.hidden = !key();
  button.onclick = () => { removeKey(); location.reload(); };
}
