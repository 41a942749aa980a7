// What is said below an answer. No DOM here.

const MIN_TOKENS = 8;
const MIN_SPAN_MS = 200; // a rate over less says more about the timer than about the engine
const ENDINGS = { length: "cut at max tokens", stopped: "stopped", failed: "failed" };

/**
 * Tokens, time to the first one, tokens per second after it, and how it ended; times in milliseconds.
 * `tokens` is null where the answer broke off before the server counted: then pieces of text count.
 */
export function figures({ start, first, last, pieces, tokens }, reason) {
  const count = tokens ?? pieces;
  const unit = tokens === null ? "pieces" : "tokens";
  const counted = `${count} ${count === 1 ? unit.slice(0, -1) : unit}${tokens === null ? " of text" : ""}`;
  const parts = count || !ENDINGS[reason] ? [counted] : [];
  if (first) parts.push(`first after ${((first - start) / 1000).toFixed(2)} s`);
  if (count >= MIN_TOKENS && last - first >= MIN_SPAN_MS) {
    parts.push(`${(((count - 1) * 1000) / (last - first)).toFixed(1)} ${unit}/s`);
  }
  if (reason in ENDINGS) parts.push(ENDINGS[reason]);
  return parts.join(" · ");
}
