// The page's start: views by the address's hash, the keys' dialog, and what is said to everyone.

import { keepKey, readKey } from "./client.js";
import { byId, setText } from "./dom.js";
import { startChat } from "./chat.js";
import { startAliases } from "./aliases.js";
import { startRecipes } from "./recipes.js";
import { showRecipe } from "./picture.js";

const TITLES = { chat: "chat-title", recipes: "recipes-title", recipe: "recipe-title" };

const page = { say, report, openKeys };
const chat = startChat(page);
const aliases = startAliases(page);
const recipes = startRecipes(page, {
  onRecipes: (cards) => aliases.offer(cards),
  onChange: () => Promise.all([aliases.refresh(), chat.refreshNames()]),
  choose: (id) => aliases.choose(id),
  chat: (id) => {
    chat.choose(id);
    location.hash = "#chat";
  },
});

byId("keys-open").addEventListener("click", openKeys);
byId("keys").addEventListener("close", useKeys);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", () => show({ isMoved: true }));
await show({ isMoved: false });
await chat.refreshNames();
recipes.follow();

/** Show the view that the address names; a reader who went there gets the focus on its title. */
async function show({ isMoved }) {
  const [view, id] = readHash();
  for (const name of Object.keys(TITLES)) byId(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    const isHere = link.dataset.view === (view === "recipe" ? "recipes" : view);
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  report(null);
  if (view === "recipe") await showRecipe(page, id);
  document.title = `${byId(TITLES[view]).textContent} · EvoServe`;
  if (isMoved) byId(TITLES[view]).focus();
}

function readHash() {
  const [view, ...rest] = location.hash.slice(1).split("/");
  if (!(view in TITLES)) return ["chat", ""];
  try {
    return [view, decodeURIComponent(rest.join("/"))];
  } catch {
    return ["recipes", ""];
  }
}

/** Tell screen readers, once. */
function say(text) {
  setText(byId("said"), text);
}

/** Show an error to everyone; null takes it away. A refused key opens the keys' dialog. */
function report(error) {
  const notice = byId("notice");
  notice.hidden = error === null;
  notice.textContent = error === null ? "" : error.message;
  if (error?.status === 401) openKeys();
}

function openKeys() {
  const dialog = byId("keys");
  if (dialog.open) return;
  for (const kind of ["api", "admin"]) byId(`key-${kind}`).value = readKey(kind);
  dialog.returnValue = "cancel";
  dialog.showModal();
}

async function useKeys() {
  const fields = ["api", "admin"].map((kind) => [kind, byId(`key-${kind}`)]);
  const isKept = byId("keys").returnValue === "keep";
  for (const [kind, field] of fields) {
    if (isKept) keepKey(kind, field.value.trim());
    field.value = "";
  }
  if (!isKept) return;
  await show({ isMoved: false });
  await chat.refreshNames();
  recipes.follow();
}
