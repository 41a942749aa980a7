// Aliases: where each leads, the way back, and the form that points one.

import { manage, newest } from "./client.js";
import { byId, h, number, plain, put } from "./dom.js";

/** Wire the list and the form; gives `refresh`, `offer` (recipes to choose from) and `choose`. */
export function startAliases(page) {
  const begin = newest();
  const beginAsking = newest();

  async function refresh() {
    const isNewest = begin();
    const list = await manage("v1/aliases").then((found) => found.data, () => null);
    if (!isNewest()) return;
    showAliases(list ?? []); // what is refused is refused for recipes too: their list says why
    byId("no-aliases").hidden = list?.length !== 0;
  }

  function showAliases(list) {
    const focused = document.activeElement?.dataset?.key;
    put(byId("alias-list"), ...list.map((alias) => buildAlias(alias, { askBack, askRemoval })));
    if (focused) focusOn(focused);
  }

  function askRemoval(alias) {
    const name = plain(alias.id, 128);
    page.ask({
      title: `Remove the alias ${name}?`,
      body: [h("p", {}, `Now, version ${alias.version}:`), buildTargets(alias)],
      text: "Requests that name it are refused from then on. The recipes stay.",
      button: "Remove",
      kind: "danger",
      waiting: "Removing …",
      act: () => manage(pathOf(alias.id), { method: "DELETE" }),
      after: () => tell(`${name} has been removed.`),
      land: () => focusOn(`Remove ${alias.id}`),
    });
  }

  /** What is shown is what will be done: the version goes along, whatever others do meanwhile. */
  async function askBack({ id }) {
    const isNewest = beginAsking();
    page.report(null);
    try {
      const { history } = await manage(pathOf(id));
      if (isNewest()) offerBack(id, history);
    } catch (error) {
      page.report(error);
    }
  }

  function offerBack(id, history) {
    const name = plain(id, 128);
    const [now] = history;
    const before = history.find((each) => each.version === now.version - 1);
    if (!before?.targets.length) {
      throw new Error(`${name} has nothing to go back to: before version ${now.version} it led nowhere.`);
    }
    const body = { version: before.version };
    page.ask({
      title: `Roll back ${name}?`,
      body: [h("p", {}, `Now, version ${now.version}:`), buildTargets(now),
        h("p", {}, `Then, as in version ${before.version}:`), buildTargets(before)],
      text: "It moves once they are loaded.",
      button: "Roll back",
      kind: "strong",
      waiting: "Waiting until they are loaded …",
      act: () => manage(`${pathOf(id)}/rollback`, { method: "POST", body }),
      after: () => tell(`${name} has been rolled back.`),
      land: () => focusOn(`Roll back ${id}`),
    });
  }

  async function tell(words) {
    page.say(words);
    await refresh();
  }

  byId("alias-name").addEventListener("input", ({ target }) => {
    target.setCustomValidity(problemOf(target.value.trim()));
  });
  byId("alias-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = byId("alias-name").value.trim();
    const body = { targets: readTargets(), retire: byId("alias-retire").checked };
    page.report(null);
    try {
      await manage(pathOf(name), { method: "PUT", body });
      page.say(`The alias ${plain(name)} has moved.`);
    } catch (error) {
      page.report(error);
    }
    await refresh();
  });

  return {
    refresh,
    offer(recipes) {
      const ids = recipes.map((recipe) => recipe.id);
      byId("alias-form").hidden = ids.length === 0;
      offerIds(byId("alias-first"), ids, null);
      offerIds(byId("alias-second"), ids, "none");
    },
    choose(id) {
      byId("alias-first").value = id;
      byId("alias-name").focus();
    },
  };
}

function readTargets() {
  const targets = ["alias-first", "alias-second"].map((id) => ({
    recipe: byId(id).value,
    weight: Number(byId(`${id}-weight`).value),
  }));
  return targets.filter((target) => target.recipe !== "");
}

function buildAlias(alias, { askBack, askRemoval }) {
  const name = plain(alias.id, 128);
  const button = (words, action) => h("button", {
    type: "button",
    "aria-label": `${words} ${name}`,
    "aria-haspopup": "dialog",
    "data-key": `${words} ${alias.id}`,
    onclick: () => action(alias),
  }, words);
  return h("li", { class: "card", "data-alias": alias.id },
    h("div", { class: "head" }, h("h3", {}, name),
      h("span", { class: "soft small" }, `version ${alias.version}`)),
    buildTargets(alias),
    h("div", { class: "row" }, button("Roll back", askBack), button("Remove", askRemoval)));
}

/** Where an alias leads, with shares if to several. */
function buildTargets({ targets }) {
  const total = targets.reduce((sum, target) => sum + target.weight, 0);
  const leads = targets.map(({ recipe, weight }) => {
    const share = targets.length > 1 ? ` ${number((100 * weight) / total)}%` : "";
    return h("li", {}, plain(recipe) + share);
  });
  return h("ul", { class: "small" }, ...(leads.length ? leads : [h("li", {}, "nowhere")]));
}

/** The button of this key, or the title if it is gone. */
function focusOn(key) {
  const found = [...document.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key);
  (found ?? byId("aliases-title")).focus();
}

function offerIds(select, ids, empty) {
  const chosen = select.value;
  const options = ids.map((id) => h("option", { value: id }, plain(id)));
  put(select, empty === null ? null : h("option", { value: "" }, empty), ...options);
  if (chosen) select.value = chosen; // if it has gone nothing is chosen, rather than another
}

/** Slashes belong to the name and stay. Throws where the browser would fold the path to another's. */
function pathOf(name) {
  const problem = problemOf(name);
  if (problem) throw new Error(problem);
  return `v1/aliases/${name.split("/").map(encodeURIComponent).join("/")}`;
}

function problemOf(name) {
  const isFolded = name.split("/").some((part) => ["", ".", ".."].includes(part));
  return isFolded ? "Invalid alias: no part between slashes may be empty, “.” or “..”." : "";
}
