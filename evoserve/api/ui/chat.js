// Chat with one recipe, or with two that answer the same messages side by side.

import { ask, newest, streamJson } from "./client.js";
import { byId, h, plain, put, setText } from "./dom.js";
import { figures } from "./figures.js";
import { buildPane, chooseModel, clear, offerModels } from "./pane.js";
import { keepAtEnd, startWriting } from "./writer.js";

const SIDES = ["left", "right"];
const MAX_SAID = 600;

/** Wire the chat's view; gives `refreshNames` and `choose`. */
export function startChat(page) {
  const panes = SIDES.map((side) => buildPane(side, page.say));
  const begin = newest();
  let running = null;
  put(byId("panes"), ...panes.map((pane) => pane.root));
  showPanes();

  byId("two").addEventListener("change", showPanes);
  byId("clear").addEventListener("click", () => {
    running?.abort();
    panes.forEach(clear);
    page.say("New conversation.");
    byId("prompt").focus();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    const isElsewhere = byId("view-chat").hidden || document.querySelector("dialog[open]");
    if (event.key === "Escape" && !isElsewhere) running?.abort();
  });

  function shown() {
    return byId("two").checked ? panes : panes.slice(0, 1);
  }

  function showPanes() {
    panes[1].root.hidden = !byId("two").checked;
    byId("panes").classList.toggle("double", byId("two").checked);
  }

  async function send() {
    const text = byId("prompt").value;
    if (running || !text.trim() || !byId("composer").reportValidity()) return;
    const sampling = readSampling();
    if (sampling === null) return;
    page.report(null);
    running = new AbortController();
    byId("prompt").value = "";
    setBusy(true);
    try {
      const asking = shown().map((pane) => answer(page, pane, text, sampling, running.signal));
      const hasAnswers = await Promise.all(asking);
      if (!hasAnswers.includes(true)) byId("prompt").value ||= text; // to be sent again
    } finally {
      running = null;
      setBusy(false);
    }
  }

  return {
    /** isAsked: someone waits for it and is told what is wrong, asked for a key too. */
    async refreshNames({ isAsked }) {
      const isNewest = begin();
      try {
        const models = (await ask("v1/models")).data;
        if (!isNewest()) return;
        panes.forEach((pane, index) => offerModels(pane, models, index));
        byId("no-models").hidden = models.length > 0;
      } catch (error) {
        if (isAsked) page.report(error);
      }
    },
    choose(id) {
      chooseModel(panes[0], id);
    },
  };
}

/** What the controls say; null if one of them holds what it may not. */
function readSampling() {
  const fields = ["temperature", "top_p", "max_tokens", "seed"].map(byId);
  const wrong = fields.find((field) => !field.checkValidity());
  if (wrong) {
    byId("controls").open = true;
    wrong.reportValidity();
    return null;
  }
  const given = fields.filter((field) => field.value !== "");
  const sampling = Object.fromEntries(given.map((field) => [field.id, Number(field.value)]));
  return { sampling, system: byId("system").value };
}

/** Ask the pane's recipe and show what it says; did anything come? */
async function answer(page, pane, text, { sampling, system }, signal) {
  const model = pane.select.value;
  if (!model) {
    page.report(new Error("There is no recipe to chat with."));
    return false;
  }
  const before = system.trim() ? [{ role: "system", content: system }] : [];
  const asked = { role: "user", content: text };
  const { history } = pane; // a new conversation begins another list
  pane.log.append(h("div", { class: "turn user" },
    h("h3", {}, "You"), h("div", { class: "text" }, text)));
  const turn = buildTurn(pane, model);
  const body = {
    model, messages: [...before, ...history, asked], ...sampling,
    stream: true, stream_options: { include_usage: true },
  };
  const count = { start: performance.now(), first: 0, last: 0, pieces: 0, tokens: null };
  page.say(`${plain(model)} is answering.`);
  const ending = await read(body, turn, count, signal);
  turn.root.removeAttribute("aria-busy");
  const reply = turn.text.textContent;
  const hasAnswer = Boolean(reply) || !ending.error;
  if (hasAnswer) {
    history.push(asked, { role: "assistant", content: reply });
  }
  keepAtEnd(turn.log, () => {
    if (ending.error) turn.root.append(h("p", { class: "bad" }, ending.error.message));
    setText(turn.figures, figures(count, ending.reason));
  });
  page.say(spoken(model, reply, ending));
  if (ending.error?.status === 401) page.report(ending.error);
  return hasAnswer;
}

/** Show the stream in `turn` as it comes; gives {reason} or {reason, error}. */
async function read(body, turn, count, signal) {
  let reason = "";
  const writing = startWriting(turn.text, turn.log);
  try {
    for await (const chunk of streamJson("v1/chat/completions", body, signal)) {
      if (chunk.recipe && chunk.recipe !== body.model) setText(turn.recipe, plain(chunk.recipe));
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        writing.add(choice.delta.content);
        count.last = performance.now();
        count.first ||= count.last;
        count.pieces += 1;
      }
      reason = choice?.finish_reason ?? reason;
      count.tokens = chunk.usage?.completion_tokens ?? count.tokens;
    }
    return { reason };
  } catch (error) {
    return error.name === "AbortError" ? { reason: "stopped" } : { reason: "failed", error };
  } finally {
    writing.flush();
  }
}

function spoken(model, reply, { reason, error }) {
  if (error) return `${plain(model)} failed: ${error.message}`;
  const text = reply.length > MAX_SAID ? `${reply.slice(0, MAX_SAID)} … (goes on)` : reply;
  return `${plain(model)}${reason === "stopped" ? ", stopped" : ""}: ${text || "(nothing)"}`;
}

function buildTurn(pane, model) {
  const text = h("div", { class: "text" });
  const recipe = h("span", {});
  const numbers = h("span", { class: "figures" }, "…");
  const root = h("div", { class: "turn", "aria-busy": "true" },
    h("h3", {}, plain(model)), text,
    h("p", { class: "soft small" }, numbers, " ", recipe));
  pane.log.append(root);
  pane.log.scrollTop = pane.log.scrollHeight;
  return { root, text, recipe, figures: numbers, log: pane.log };
}

function setBusy(isBusy) {
  for (const [id, isOff] of [["send", isBusy], ["stop", !isBusy]]) {
    byId(id).setAttribute("aria-disabled", String(isOff)); // a disabled one would lose the focus
  }
  for (const side of SIDES) byId(`model-${side}`).disabled = isBusy;
}
