// What cannot be taken back is asked first, and what the server refuses is said where it was asked.

import { byId, put, setText } from "./dom.js";

/**
 * Wire the dialog; gives a function that asks {title, body, text, button, kind, waiting, act, after,
 * land}: `act` is done if the answer is yes, then `after`; `land` moves the focus if what had it before
 * is gone.
 */
export function startQuestions(report) {
  const dialog = byId("question");
  let asked = null;
  byId("question-do").addEventListener("click", answer);
  dialog.addEventListener("close", () => {
    const focused = document.activeElement; // a browser may leave it in the closed dialog for a while
    if (!dialog.open && (focused === document.body || dialog.contains(focused))) asked.land();
  });

  async function answer() {
    const mine = asked;
    if (mine.isRunning) return;
    mine.isRunning = true;
    show(mine.waiting, { isBusy: true });
    try {
      await mine.act();
      if (isOpenFor(mine)) dialog.close();
      await mine.after();
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
    else report(error);
    if (isOpen && !isShownHere) show("");
  }

  function show(text, { isBusy = false, isBad = false } = {}) {
    const place = byId("question-state");
    place.classList.toggle("bad", isBad);
    place.hidden = text === "";
    setText(place, text);
    byId("question-do").setAttribute("aria-disabled", String(isBusy));
  }

  return (question) => {
    if (dialog.open) return;
    asked = { ...question, isRunning: false };
    show("");
    setText(byId("question-title"), question.title);
    put(byId("question-body"), ...question.body);
    setText(byId("question-text"), question.text);
    setText(byId("question-do"), question.button);
    byId("question-do").className = question.kind;
    dialog.showModal();
  };
}
