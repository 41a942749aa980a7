// Deleting a recipe: asked first, and what the server refuses is said where it was asked.

import { manage } from "./client.js";
import { byId, plain, setText } from "./dom.js";

/** Wire the dialog; gives a function that asks whether to delete {id, name}. */
export function startRemoval(page, refresh) {
  const dialog = byId("remove");
  let asked = null;
  byId("remove-do").addEventListener("click", remove);

  async function remove() {
    const mine = asked;
    if (mine.isRunning) return;
    mine.isRunning = true;
    show("Waiting for answers that are still running …", { isBusy: true });
    try {
      await manage(`v1/recipes/${encodeURIComponent(mine.id)}`, { method: "DELETE" });
      if (isOpenFor(mine)) {
        dialog.close();
        byId("recipes-title").focus(); // what opened it goes, or has gone, with its card
      }
      await refresh();
      page.say(`${plain(mine.name)} has been deleted.`);
    } catch (error) {
      mine.isRunning = false;
      refuse(error, isOpenFor(mine));
    }
  }

  /** Is it still asked? The event `close` may come after the dialog has been opened again. */
  function isOpenFor(mine) {
    return asked === mine && dialog.open;
  }

  function refuse(error, isOpen) {
    const isShownHere = isOpen && error.status !== 401;
    if (isShownHere) show(error.message, { isBad: true });
    else page.report(error);
    if (isOpen && !isShownHere) show("");
  }

  function show(text, { isBusy = false, isBad = false } = {}) {
    const place = byId("remove-state");
    place.classList.toggle("bad", isBad);
    place.hidden = text === "";
    setText(place, text);
    byId("remove-do").setAttribute("aria-disabled", String(isBusy));
  }

  return ({ id, name }) => {
    asked = { id, name, isRunning: false };
    show("");
    setText(byId("remove-title"), `Delete ${plain(name, 128)}?`);
    setText(byId("remove-id"), plain(id));
    dialog.showModal();
  };
}
