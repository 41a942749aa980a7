// The server's API: keys, requests, errors, and server-sent events over fetch (which, unlike
// EventSource, can send a key). Addresses are relative, so the page works behind a prefix.

const KINDS = { api: "evoserve-api-key", admin: "evoserve-admin-key" };

/** What the server refused or what kept it from answering; status 0: no answer at all. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The API or admin key; it lives as long as the tab. */
export function readKey(kind) {
  return sessionStorage.getItem(KINDS[kind]) ?? "";
}

/** Keep a key for this tab, or forget it if it is empty. */
export function keepKey(kind, value) {
  if (value) sessionStorage.setItem(KINDS[kind], value);
  else sessionStorage.removeItem(KINDS[kind]);
}

/** A JSON answer to a request that needs the API key at most. */
export async function ask(path, options = {}) {
  return (await request(path, { ...options, key: readKey("api") })).json();
}

/** A JSON answer to a request that manages recipes: the admin key, or where none is set the API's. */
export async function manage(path, options = {}) {
  return (await request(path, { ...options, key: adminKey() })).json();
}

/** Prometheus' text. */
export async function readMetrics() {
  return (await request("metrics", { key: readKey("api") })).text();
}

/** A streamed answer's events, one parsed JSON object after the other. Throws ApiError. */
export async function* streamJson(path, body, signal) {
  const answer = await request(path, { method: "POST", body, signal, key: readKey("api") });
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
  if (!isDone) throw new ApiError(0, "The connection was lost before the answer was complete.");
}

/** What happens to recipes and aliases, from now on or after event number `last`. */
export async function* followEvents(last, signal) {
  const headers = last ? { "Last-Event-ID": last } : {};
  const answer = await request("v1/recipes/events", { headers, signal, key: adminKey() });
  yield { kind: "open", last };
  for await (const event of parseEvents(answer.body)) {
    yield { kind: event.kind, last: event.id, ...JSON.parse(event.data) };
  }
}

function adminKey() {
  return readKey("admin") || readKey("api");
}

async function request(path, { method = "GET", body, headers = {}, signal, key = "" }) {
  const sent = { ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached, or a key holds characters it may not.");
  }
  if (!answer.ok) throw new ApiError(answer.status, await messageOf(answer));
  return answer;
}

async function messageOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

async function* parseEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
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
