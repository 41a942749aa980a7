// The server's API: keys, requests, errors, and server-sent events over fetch (which, unlike
// EventSource, can send a key). Addresses are relative, so the page works behind a prefix.

/** The kinds of keys. */
export const KINDS = ["api", "admin"];

const LOST = "The connection was lost before the answer was complete.";

/** What the server refused, or what kept it from answering (status 0); param: what was wrong. */
export class ApiError extends Error {
  constructor(status, message, sent = null, param = "") {
    super(message);
    Object.assign(this, { status, sent, param });
  }

  /** Was a key refused that has been replaced since? Such an answer says nothing about the new one. */
  get isOutdated() {
    return this.status === 401 && this.sent !== null && this.sent.key !== currentKey(this.sent.kind);
  }
}

/** Gives checks of which only the newest one holds: an answer that was overtaken must not be shown. */
export function newest() {
  let count = 0;
  return () => {
    count += 1;
    const mine = count;
    return () => mine === count;
  };
}

/** The API or admin key; it lives as long as the tab. */
export function readKey(kind) {
  return sessionStorage.getItem(`evoserve-${kind}-key`) ?? "";
}

/** Keep a key for this tab, or forget it if it is empty. */
export function keepKey(kind, value) {
  if (value) sessionStorage.setItem(`evoserve-${kind}-key`, value);
  else sessionStorage.removeItem(`evoserve-${kind}-key`);
}

/** A JSON answer to a request that needs the API key at most. */
export async function ask(path, options = {}) {
  return readJson(await request(path, { ...options, kind: "api" }));
}

/** A JSON answer to a request that manages recipes: the admin key, or where none is set the API's. */
export async function manage(path, options = {}) {
  return readJson(await request(path, { ...options, kind: "admin" }));
}

/** Prometheus' text. */
export async function readMetrics() {
  return (await request("metrics", { kind: "api" })).text();
}

/** A streamed answer's events, one parsed JSON object after the other. Throws ApiError. */
export async function* streamJson(path, body, signal) {
  const answer = await request(path, { method: "POST", body, signal, kind: "api" });
  yield { recipe: answer.headers.get("x-evoserve-recipe") };
  let isDone = false;
  for await (const event of parseEvents(answer.body)) {
    if (event.data === "[DONE]") {
      isDone = true;
      continue;
    }
    const value = JSON.parse(event.data);
    if (value.error) throw new ApiError(answer.status, value.error.message);
    yield value;
  }
  if (!isDone) throw new ApiError(0, LOST);
}

/** What happens to recipes and aliases, from now on or after event number `last`. */
export async function* followEvents(last, signal) {
  const headers = last ? { "Last-Event-ID": last } : {};
  const answer = await request("v1/recipes/events", { headers, signal, kind: "admin" });
  yield { kind: "open", last };
  for await (const event of parseEvents(answer.body)) {
    yield { kind: event.kind, last: event.id, ...JSON.parse(event.data) };
  }
}

function currentKey(kind) {
  return kind === "admin" ? readKey("admin") || readKey("api") : readKey("api");
}

/** body: what becomes JSON; text: what is sent as it is, of the type that `headers` name. */
async function request(path, { kind, method = "GET", body, text, headers = {}, signal }) {
  const sent = { ...headers };
  const key = currentKey(kind);
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const content = body === undefined ? text : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: content, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (!answer.ok) throw await refusalOf(answer, { kind, key });
  return answer;
}

async function refusalOf(answer, sent) {
  const said = await answer.json().then((body) => body.error, () => null);
  const message = said?.message ?? `The server answered with status ${answer.status}.`;
  const wanted = /^Incorrect (API|admin) key/.exec(message)?.[1];
  const isGiven = wanted === "admin" ? readKey("admin") : sent.key;
  const shown = wanted && !isGiven ? `An ${wanted} key is needed.` : message;
  return new ApiError(answer.status, shown, sent, said?.param ?? "");
}

async function readJson(answer) {
  try {
    return await answer.json();
  } catch (error) {
    throw breakOf(error);
  }
}

/** What broke a body off, in words for readers. */
function breakOf(error) {
  return error.name === "AbortError" ? error : new ApiError(0, LOST);
}

async function* parseEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw breakOf(error);
      });
      if (done) return;
      const parts = (kept + value).split("\n\n");
      kept = parts.pop();
      for (const part of parts) {
        const event = parseEvent(part);
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(text) {
  const event = { kind: "message", id: "", data: "" };
  for (const line of text.split("\n")) {
    if (line.startsWith("data: ")) event.data += line.slice(6);
    else if (line.startsWith("event: ")) event.kind = line.slice(7);
    else if (line.startsWith("id: ")) event.id = line.slice(4);
  }
  return event;
}
