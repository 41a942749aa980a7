// The list of recipes: state, memory, buttons; kept up to date by the server's events.

import { ApiError, followEvents, manage, readMetrics } from "./client.js";
import { byId, bytes, h, plain, setText } from "./dom.js";

const RETRY_MS = 2000;
const SETTLE_MS = 120;

/** Wire the list; gives `follow`, which (re)starts listening with the keys of now. */
export function startRecipes(page, doors) {
  const cards = new Map();
  let listening = null;
  let settling = 0;

  async function refresh() {
    try {
      const list = (await manage("v1/recipes")).data;
      note(null);
      showCards(list);
      doors.onRecipes(list);
      setText(byId("held"), await heldMemory());
    } catch (error) {
      showCards([]);
      note(error);
    }
  }

  function showCards(list) {
    const known = new Set(list.map((each) => each.id));
    for (const [id, card] of cards) {
      if (known.has(id)) continue;
      card.root.remove();
      cards.delete(id);
    }
    for (const each of list) {
      if (!cards.has(each.id)) {
        cards.set(each.id, buildCard(each, page, doors, refresh));
        byId("recipe-list").append(cards.get(each.id).root);
      }
      updateCard(cards.get(each.id), each);
    }
  }

  /** Many events come at once; the list is asked for when they have settled. */
  function refreshSoon() {
    clearTimeout(settling);
    settling = setTimeout(() => Promise.all([refresh(), doors.onChange()]), SETTLE_MS);
  }

  function take(event) {
    const card = cards.get(event.recipe);
    if (event.kind === "alias" && event.error) page.report(new Error(event.error));
    if (event.kind === "recipe" && event.state === "building" && event.read_bytes && card) {
      showProgress(card, event);
    } else {
      refreshSoon();
    }
  }

  async function follow() {
    listening?.abort();
    const mine = new AbortController();
    listening = mine;
    let last = "";
    await refresh();
    await doors.onChange();
    while (!mine.signal.aborted) {
      try {
        for await (const event of followEvents(last, mine.signal)) {
          last = event.last || last;
          setText(byId("live-state"), "Live.");
          if (event.kind !== "open") take(event);
        }
      } catch (error) {
        if (error instanceof ApiError && [401, 403].includes(error.status)) break;
      }
      if (mine.signal.aborted) return;
      setText(byId("live-state"), "Not live: the connection is being made again.");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      refreshSoon();
    }
    setText(byId("live-state"), "");
  }

  return { follow };
}

function note(error) {
  const place = byId("recipes-note");
  place.hidden = error === null;
  const advice = error?.status === 401 ? " Enter the admin key under “Keys”." : "";
  setText(place, error === null ? "" : error.message + advice);
}

async function heldMemory() {
  const text = await readMetrics().catch(() => ""); // may be closed to this key
  const found = /^evoserve:weight_bytes ([\d.e+]+)$/m.exec(text);
  return found ? `${bytes(Number(found[1]))} of weights are held, shared ones once.` : "";
}

function buildCard(recipe, page, doors, refresh) {
  const { id } = recipe;
  const name = plain(recipe.name, 60);
  const button = (words, action, more = "") => h("button", {
    type: "button", "aria-label": `${words}${more} ${name}`, onclick: action,
  }, words);
  const change = (verb) => async () => {
    page.report(null);
    try {
      await manage(`v1/recipes/${encodeURIComponent(id)}/${verb}`, { method: "POST" });
    } catch (error) {
      page.report(error);
    }
    await refresh();
  };
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
    h("p", { class: "small soft" }, plain(id)),
    card.memory, card.progress, card.names, card.reason,
    h("div", { class: "row" }, button("Chat", () => doors.chat(id), " with"), card.load, card.unload,
      card.pin, card.unpin, button("Alias", () => doors.choose(id), " for")));
  return card;
}

function updateCard(card, recipe) {
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

function showProgress(card, { read_bytes: read, total_bytes: total }) {
  card.progress.hidden = false;
  card.progress.value = total ? read / total : 0;
}
