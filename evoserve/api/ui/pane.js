// One side of the chat: the recipe that was chosen for it, and the conversation.

import { h, plain, put } from "./dom.js";

/** An empty pane {root, select, log, history}; `say` is told when its conversation begins anew. */
export function buildPane(side, say) {
  const id = `model-${side}`;
  const select = h("select", { id });
  const log = h("div", { class: "log", tabindex: "0", role: "region",
    "aria-label": `Conversation, ${side}` });
  const root = h("section", { class: "pane", "aria-label": `Recipe, ${side}` },
    h("label", { for: id }, "Recipe ", select), log);
  const pane = { root, select, log, history: [], say };
  select.addEventListener("change", () => beginAnew(pane));
  return pane;
}

/** Forget the conversation. */
export function clear(pane) {
  pane.history = [];
  put(pane.log);
}

/** Offer what the server lists now. What is chosen stays so, listed or not; else it is number `index`. */
export function offerModels({ select }, models, index) {
  const chosen = select.value;
  const isExact = ({ id, root }) => id === root;
  const isGone = chosen !== "" && !models.some(({ id }) => id === chosen);
  put(select, isGone ? buildOption(chosen, " (not there now)") : null,
    buildGroup("Names and aliases", models.filter((model) => !isExact(model))),
    buildGroup("Exact versions", models.filter(isExact)));
  if (chosen) select.value = chosen;
  else select.selectedIndex = Math.min(index, models.length - 1);
}

/** Choose a recipe, which may be listed later. */
export function chooseModel(pane, id) {
  const { select } = pane;
  if (select.value === id) return;
  const isListed = [...select.options].some((option) => option.value === id);
  if (!isListed) select.append(buildOption(id, " (not there now)"));
  select.value = id;
  beginAnew(pane);
}

/** The next recipe is not told what another one said; readers still see it. */
function beginAnew(pane) {
  pane.history = []; // another list: an answer that still comes belongs to the old one
  const { log } = pane;
  if (log.lastElementChild?.matches(".anew")) log.lastElementChild.remove();
  if (!log.hasChildNodes()) return;
  const words = `New conversation with ${plain(pane.select.value)}`;
  log.append(h("p", { class: "anew" }, words));
  log.scrollTop = log.scrollHeight;
  pane.say(`${words}.`);
}

function buildGroup(label, models) {
  return models.length ? h("optgroup", { label }, ...models.map(({ id }) => buildOption(id))) : null;
}

function buildOption(name, more = "") {
  return h("option", { value: name }, plain(name) + more);
}
