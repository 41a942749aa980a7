// One recipe in the list: its state, memory and buttons.

import { bytes, h, plain, setText } from "./dom.js";

/** Build a recipe's card, yet empty; `doors` are what its buttons do: chat, choose, remove, change. */
export function buildCard({ id, name: given }, doors) {
  const name = plain(given, 128);
  const button = (words, action, more = "") => h("button", {
    type: "button", "aria-label": `${words}${more} ${name}`, onclick: action,
  }, words);
  const change = (verb) => () => doors.change(id, verb);
  const card = {
    state: h("span", { class: "state" }),
    memory: h("p", { class: "small" }),
    names: h("p", { class: "small soft" }),
    reason: h("p", { class: "bad small", hidden: true }),
    progress: h("progress", { max: 1, value: 0, hidden: true, "aria-label": `build of ${name}` }),
    load: button("Load", change("load?wait=false")),
    unload: button("Unload", change("unload")),
    pin: button("Pin", change("pin")),
    unpin: button("Unpin", change("unpin")),
  };
  const picture = h("a", { href: `#recipe/${encodeURIComponent(id)}` }, name);
  card.root = h("li", { class: "card", "data-id": id },
    h("div", { class: "head" }, h("h3", {}, picture), card.state),
    h("p", { class: "small soft id" }, plain(id)),
    card.memory, card.progress, card.names, card.reason,
    h("div", { class: "row" }, button("Chat", () => doors.chat(id), " with"), card.load, card.unload,
      card.pin, card.unpin, button("Alias", () => doors.choose(id), " for"),
      button("Delete", () => doors.remove({ id, name: given }))));
  return card;
}

/** Show on a card what the server says of its recipe. */
export function updateCard(card, recipe) {
  const isLoaded = recipe.loaded !== null;
  const isBusy = ["queued", "building", "draining"].includes(recipe.state);
  setText(card.state, recipe.pinned ? `${recipe.state}, pinned` : recipe.state);
  card.state.dataset.state = recipe.state;
  setText(card.memory, memoryOf(recipe));
  setText(card.names, recipe.aliases.length ? `Aliases: ${recipe.aliases.map((name) => plain(name)).join(", ")}` : "");
  card.names.hidden = recipe.aliases.length === 0;
  setText(card.reason, [recipe.reason, ...recipe.warnings].filter(Boolean).map((text) => plain(text, 600)).join(" "));
  card.reason.hidden = card.reason.textContent === "";
  card.progress.hidden = recipe.state !== "building";
  if (recipe.progress) showProgress(card, recipe.progress);
  swap(card.load, card.unload, isLoaded);
  swap(card.pin, card.unpin, recipe.pinned);
  card.load.setAttribute("aria-disabled", String(isBusy));
  card.unload.setAttribute("aria-disabled", String(isBusy));
}

/** Show the second of two buttons instead of the first, or the other way; the focus goes along. */
function swap(first, second, isSecond) {
  const [shown, hidden] = isSecond ? [second, first] : [first, second];
  const hadFocus = document.activeElement === hidden;
  shown.hidden = false;
  if (hadFocus) shown.focus();
  hidden.hidden = true;
}

function memoryOf({ loaded, needs }) {
  if (loaded) {
    return `${bytes(loaded.weight_bytes)} of weights, ${bytes(loaded.kv_cache_bytes)} of KV cache; `
      + `${loaded.num_steps} steps over ${loaded.num_layers} layers; built in ${loaded.build_s.toFixed(2)} s.`;
  }
  if (!needs) return "";
  return `Needs ${bytes(needs.weight_bytes)} of weights by itself, at most ${bytes(needs.kv_cache_bytes)} of KV cache.`;
}

/** Show how much of a build is done. */
export function showProgress(card, { read_bytes: read, total_bytes: total }) {
  card.progress.hidden = false;
  card.progress.value = total ? read / total : 0;
}
