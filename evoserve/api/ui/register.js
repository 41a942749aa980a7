// Registering a recipe: a manifest from a file or as text, sent as it is; the server is the judge.

import { manage } from "./client.js";
import { byId, bytes, plain, setText } from "./dom.js";

const MAX_SHOWN_BYTES = 2 ** 22; // far over any manifest: a wrong file must not stop the tab

/** Wire the form; `reveal` shows the recipe of an id in the list. */
export function startRegister(page, reveal) {
  const field = byId("manifest");
  let isRunning = false;

  byId("manifest-file").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the same file can be chosen again
    if (!file) return;
    show("");
    try {
      field.value = await readText(file);
      field.focus();
    } catch (error) {
      show(error.message);
    }
  });

  byId("register-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isRunning) return;
    isRunning = true;
    show("");
    byId("register-send").setAttribute("aria-disabled", "true");
    try {
      await register(field.value);
    } catch (error) {
      if (error.status === 401) page.report(error);
      else show(withCulprit(error));
      field.focus();
    } finally {
      isRunning = false;
      byId("register-send").setAttribute("aria-disabled", "false");
    }
  });

  async function register(text) {
    const isJson = text.trimStart().startsWith("{");
    const headers = { "Content-Type": isJson ? "application/json" : "application/yaml" };
    const recipe = await manage("v1/recipes", { method: "POST", text, headers });
    page.report(null);
    field.value = "";
    byId("register").open = false;
    await reveal(recipe.id);
    page.say(`${plain(recipe.name)} is registered.`);
  }

  function show(text) {
    const place = byId("register-error");
    place.hidden = text === "";
    setText(place, text);
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}

async function readText(file) {
  const name = plain(file.name, 80);
  if (file.size > MAX_SHOWN_BYTES) {
    throw new Error(`${name} holds ${bytes(file.size)}, more than a manifest may.`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${name} cannot be read as UTF-8 text.`);
  }
}

function withCulprit({ message, param }) {
  const isNamed = !param || message.includes(param);
  return plain(isNamed ? message : `${param}: ${message}`, 2000);
}
