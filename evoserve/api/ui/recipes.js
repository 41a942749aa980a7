// The list of recipes, kept up to date by the server's events.

import { ApiError, followEvents, manage, newest, readMetrics } from "./client.js";
import { buildCard, showProgress, updateCard } from "./card.js";
import { byId, bytes, h, plain, setText } from "./dom.js";

const RETRY_MS = 2000;
const SETTLE_MS = 120;
const FEW = 8; // so many are found by looking

/** Wire the list; gives `follow` ((re)starts listening with the keys of now), `visit` and `reveal`. */
export function startRecipes(page, doors) {
  const cards = new Map();
  const begin = newest();
  let listening = null;
  let settling = 0;
  let revealed = "";
  let wasAsked = false;
  byId("find").addEventListener("input", showFound);

  /** isAsked: the keys' dialog may open, once for the keys of now. */
  async function refresh({ isAsked = false } = {}) {
    const isNewest = begin();
    try {
      const list = (await manage("v1/recipes")).data;
      const held = await heldMemory();
      if (!isNewest()) return;
      note(null);
      showCards(list);
      doors.onRecipes(list);
      setText(byId("held"), `${countOf(list)} ${held}`);
    } catch (error) {
      if (!isNewest() || error.isOutdated) return;
      if (error.status) { // without an answer the old list is the best there is
        showCards([]);
        doors.onRecipes([]);
      }
      setText(byId("held"), "");
      note(error);
      if (!isAsked || wasAsked || error.status !== 401) return;
      wasAsked = true;
      page.openKeys(error.message);
    }
  }

  async function change(id, verb) {
    page.report(null);
    try {
      await manage(`v1/recipes/${encodeURIComponent(id)}/${verb}`, { method: "POST" });
    } catch (error) {
      page.report(error);
    }
    await refresh();
  }

  function remove({ id, name }) {
    page.ask({
      title: `Delete ${plain(name, 128)}?`,
      body: [h("p", { class: "soft" }, plain(id))],
      text: "Its manifest is forgotten here and its memory is freed, once the answers that run have "
        + "ended. Files stay.",
      button: "Delete",
      kind: "danger",
      waiting: "Waiting for answers that are still running …",
      act: () => manage(`v1/recipes/${encodeURIComponent(id)}`, { method: "DELETE" }),
      async after() {
        await refresh();
        page.say(`${plain(name)} has been deleted.`);
      },
      land: () => byId("recipes-title").focus(),
    });
  }

  function showCards(list) {
    const known = new Set(list.map((each) => each.id));
    for (const [id, card] of cards) {
      if (!known.has(id)) drop(id, card);
    }
    for (const each of list) {
      if (!cards.has(each.id)) {
        cards.set(each.id, buildCard(each, { ...doors, change, remove }));
        byId("recipe-list").append(cards.get(each.id).root);
      }
      updateCard(cards.get(each.id), each);
    }
    byId("no-recipes").hidden = list.length > 0;
    byId("find-row").hidden = list.length <= FEW;
    showFound();
    if (!cards.has(revealed)) return;
    cards.get(revealed).root.querySelector("a").focus();
    revealed = "";
  }

  function drop(id, card) {
    if (card.root.contains(document.activeElement)) byId("recipes-title").focus();
    card.root.remove();
    cards.delete(id);
  }

  /** Hide the cards that do not hold what is looked for. */
  function showFound() {
    const wanted = byId("find-row").hidden ? "" : byId("find").value.trim().toLowerCase();
    let count = 0;
    for (const card of cards.values()) {
      card.root.hidden = !card.root.textContent.toLowerCase().includes(wanted);
      count += card.root.hidden ? 0 : 1;
    }
    setText(byId("found"), wanted ? `${count} of ${cards.size}` : "");
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

  async function follow({ isAsked }) {
    listening?.abort();
    const { signal } = (listening = new AbortController());
    let last = "";
    wasAsked = false;
    setText(byId("live-state"), "");
    await refresh({ isAsked });
    await doors.onChange();
    while (!signal.aborted) {
      try {
        for await (const event of followEvents(last, signal)) {
          last = event.last || last;
          setText(byId("live-state"), "Live.");
          take(event); // the opening is one: what came before it was not heard
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && [401, 403].includes(error.status)) {
          setText(byId("live-state"), "");
          await refresh();
          return;
        }
      }
      if (signal.aborted) return;
      setText(byId("live-state"), "Not live: the connection is being made again.");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  return {
    follow,
    /** Someone has come to look. */
    visit: () => refresh({ isAsked: true }),
    /** Show and focus the recipe of this id as soon as it is listed, by whichever refresh. */
    async reveal(id) {
      revealed = id;
      byId("find").value = "";
      await refresh();
    },
  };
}

function note(error) {
  const place = byId("recipes-note");
  place.hidden = error === null;
  const advice = error?.status === 401 ? " Enter the admin key under “Keys”." : "";
  setText(place, error === null ? "" : error.message + advice);
  if (error !== null) byId("no-recipes").hidden = true;
}

function countOf(list) {
  const loaded = list.filter((each) => each.loaded !== null).length;
  return `${list.length} ${list.length === 1 ? "recipe" : "recipes"}, ${loaded} in memory.`;
}

async function heldMemory() {
  const text = await readMetrics().catch(() => ""); // may be closed to this key
  const found = /^evoserve:weight_bytes ([\d.e+]+)$/m.exec(text);
  return Number(found?.[1]) ? `${bytes(Number(found[1]))} of weights are held, shared ones once.` : "";
}
