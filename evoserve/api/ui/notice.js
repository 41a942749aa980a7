// What went wrong, at the top of the window wherever the reader is, until it is dismissed.

import { byId } from "./dom.js";

const AROUND = 16; // pixels kept free above and below

/** Wire the notice; gives a function that shows a text, or for an empty one takes the notice away. */
export function startNotice() {
  const notice = byId("notice");
  const close = byId("notice-close");
  let before = null;
  close.addEventListener("focus", ({ relatedTarget }) => {
    before = relatedTarget;
  });
  close.addEventListener("click", () => {
    const back = before?.isConnected ? before : byId("main");
    notice.hidden = true;
    back.focus({ preventScroll: true });
  });
  new ResizeObserver(() => makeRoom(notice)).observe(notice);

  return (text) => {
    notice.hidden = text === "";
    byId("notice-text").textContent = text;
  };
}

/** What has the focus, or gets it, is scrolled out from under the notice. */
function makeRoom(notice) {
  const height = notice.hidden ? 0 : notice.offsetHeight + AROUND;
  document.documentElement.style.scrollPaddingTop = `${height}px`;
  const focused = document.activeElement;
  if (notice.hidden || focused === document.body || focused.contains(notice)) return;
  const [{ top, bottom }, place] = [focused, notice].map((node) => node.getBoundingClientRect());
  const isCovered = top < place.bottom && bottom > place.top;
  if (isCovered && !notice.contains(focused)) focused.scrollIntoView({ block: "nearest" });
}
