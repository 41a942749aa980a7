// The page's start: views by the address's hash, and what is said to everyone.

import { byId, h } from "./dom.js";
import { startChat } from "./chat.js";
import { startAliases } from "./aliases.js";
import { startKeys } from "./keys.js";
import { startNotice } from "./notice.js";
import { startQuestions } from "./question.js";
import { startRecipes } from "./recipes.js";
import { startRegister } from "./register.js";
import { showRecipe } from "./picture.js";

const MAX_SAID = 4;
const TITLES = { chat: "chat-title", recipes: "recipes-title", recipe: "recipe-title" };

const notify = startNotice();
const openKeys = startKeys(start);
const page = { say, report, openKeys, ask: startQuestions(report) };
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

byId("keys-open").addEventListener("click", () => openKeys());
for (const [link, goal] of [["skip", "main"], ["to-aliases", "aliases-title"]]) {
  byId(link).addEventListener("click", (event) => {
    event.preventDefault();
    byId(goal).focus();
  });
}
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
  if (isMoved && view === "recipes") await recipes.visit();
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
  const advice = error?.status === 401 ? " Enter a key under “Keys”." : "";
  notify(error === null ? "" : error.message + advice);
  if (error?.status === 401) openKeys(error.message);
}
