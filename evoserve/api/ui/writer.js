// Streamed text on the screen, in portions: laying a long text out for each token would stop the tab.

const MIN_PAUSE_MS = 40;
const REST = 4; // times as long as laying out takes is left to everything else

/** Begin a text in `place`, inside the scrolled `log`; gives `add` and, for the end, `flush`. */
export function startWriting(place, log) {
  const shown = document.createTextNode("");
  place.append(shown);
  let waiting = "";
  let timer = 0;
  let pause = 0;

  function flush() {
    clearTimeout(timer);
    timer = 0;
    const start = performance.now();
    keepAtEnd(log, () => shown.appendData(waiting));
    waiting = "";
    pause = Math.max(MIN_PAUSE_MS, REST * (performance.now() - start));
  }

  return {
    add(text) {
      waiting += text;
      timer ||= setTimeout(flush, pause);
    },
    flush,
  };
}

/** Scroll along with what `change` adds, but for readers who have scrolled away from the end. */
export function keepAtEnd(log, change) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}
