// Aliases: where each leads, the way back, and the form that points one.

import { manage, newest } from "./client.js";
import { byId, h, number, plain, put } from "./dom.js";

/** Wire the list and the form; gives `refresh`, `offer` (recipes to choose from) and `choose`. */
export function startAliases(page) {
  const begin = newest();

  async function refresh() {
    const isNewest = begin();
    const list = await manage("v1/aliases").then((found) => found.data, () => null);
    if (!isNewest()) return;
    showAliases(list ?? []); // what is refused is refused for recipes too: their list says why
    byId("no-aliases").hidden = list?.length !== 0;
  }

  function showAliases(list) {
    const focused = document.activeElement?.dataset?.key;
    put(byId("alias-list"), ...list.map((alias) => buildAlias(alias, run)));
    const again = [...document.querySelectorAll("[data-key]")].find((node) => node.dataset.key === focused);
    if (focused) (again ?? byId("aliases-title")).focus();
  }

  /** Do what a button says, show what comes of it. */
  async function run(path, options, words) {
    page.report(null);
    try {
      await manage(path, options);
      page.say(words);
    } catch (error) {
      page.report(error);
    }
    await refresh();
  }

  byId("alias-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("alias-name").value.trim();
    const body = { targets: readTargets(), retire: byId("alias-retire").checked };
    run(pathOf(name), { method: "PUT", body }, `The alias ${plain(name)} has moved.`);
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

function buildAlias(alias, run) {
  const name = plain(alias.id, 128);
  const total = alias.targets.reduce((sum, target) => sum + target.weight, 0);
  const leads = alias.targets.map(({ recipe, weight }) => {
    const share = alias.targets.length > 1 ? ` ${number((100 * weight) / total)}%` : "";
    return h("li", {}, plain(recipe) + share);
  });
  const button = (words, path, method, said) => h("button", {
    type: "button",
    "aria-label": `${words} ${name}`,
    "data-key": `${words} ${alias.id}`,
    onclick: () => run(path, { method }, said),
  }, words);
  return h("li", { class: "card", "data-alias": alias.id },
    h("div", { class: "head" }, h("h3", {}, name),
      h("span", { class: "soft small" }, `version ${alias.version}`)),
    h("ul", { class: "small" }, ...leads),
    h("div", { class: "row" },
      button("Roll back", `${pathOf(alias.id)}/rollback`, "POST", `${name} has been rolled back.`),
      button("Remove", pathOf(alias.id), "DELETE", `${name} has been removed.`)));
}

function offerIds(select, ids, empty) {
  const chosen = select.value;
  const options = ids.map((id) => h("option", { value: id }, plain(id)));
  put(select, empty === null ? null : h("option", { value: "" }, empty), ...options);
  if (ids.includes(chosen)) select.value = chosen;
}

/** Slashes belong to the name and stay. */
function pathOf(name) {
  return `v1/aliases/${name.split("/").map(encodeURIComponent).join("/")}`;
}
