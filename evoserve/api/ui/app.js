// The page's start: views by the address's hash, the keys' dialog, and what is said to everyone.

import { keepKey, readKey } from "./client.js";
import { byId, h } from "./dom.js";
import { startChat } from "./chat.js";
import { startAliases } from "./aliases.js";
import { startRecipes } from "./recipes.js";
import { startRegister } from "./register.js";
import { showRecipe } from "./picture.js";

const MAX_SAID = 4;
const TITLES = { chat: "chat-title", recipes: "recipes-title", recipe: "recipe-title" };

const page = { say, report, openKeys };
const chat = startChat(page);
const aliases = startAliases(page);
const recipes = startRecipes(page, {
  onRecipes: (cards) => aliases.offer(cards),
  onChange: () => Promise.all([aliases.refresh(), chat.refreshNames({ isAsked: false })]),
  choose: (id) => aliases.choose(id),
  chat: (id) => {
    chat.choose(id);
    location.hash = "#chat";
  },
});

startRegister(page, recipes.reveal);

byId("keys-open").addEventListener("click", openKeys);
byId("keys").addEventListener("submit", useKeys);
byId("keys").addEventListener("close", clearKeys);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", () => show({ isMoved: true }));
await start();

/** Show the view and fill the lists; again when the keys have changed. */
async function start() {
  const [view] = readHash();
  await show({ isMoved: false });
  await chat.refreshNames({ isAsked: view === "chat" });
  recipes.follow({ isAsked: view === "recipes" });
}

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
  if (isMoved && view === "chat") await chat.refreshNames({ isAsked: true });
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

/** Tell screen readers, once; two panes that end together are both heard. */
function say(text) {
  const place = byId("said");
  place.append(h("p", {}, text));
  while (place.children.length > MAX_SAID) place.firstChild.remove();
}

/** Show an error to everyone; null takes it away. A refused key opens the keys' dialog. */
function report(error) {
  if (error?.isOutdated) return;
  const notice = byId("notice");
  notice.hidden = error === null;
  const advice = error?.status === 401 ? " Enter a key under “Keys”." : "";
  notice.textContent = error === null ? "" : error.message + advice;
  if (error?.status === 401) openKeys();
}

function openKeys() {
  const dialog = byId("keys");
  if (dialog.open) return;
  for (const kind of ["api", "admin"]) byId(`key-${kind}`).value = readKey(kind);
  dialog.showModal();
}

/** What was entered counts from here on: `close` may come after the dialog has been opened again. */
function useKeys({ submitter }) {
  if (submitter?.value !== "keep") return;
  for (const kind of ["api", "admin"]) keepKey(kind, byId(`key-${kind}`).value.trim());
  start();
}

function clearKeys() {
  if (byId("keys").open) return;
  for (const kind of ["api", "admin"]) byId(`key-${kind}`).value = "";
}
