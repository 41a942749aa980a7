// Asks one server everything with OpenAI's client for Node and prints what came, as one JSON object.

import OpenAI from "openai";

const [, , baseURL, given] = process.argv;
const { messages, tools, schema } = JSON.parse(given);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0, timeout: 60_000 });
const asked = { model: "tiny", messages, temperature: 0, max_tokens: 24 };
const forced = { ...asked, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 2500 };
const response_format = { type: "json_schema", json_schema: { name: "pet", schema, strict: true } };

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const known = ["BadRequestError", "NotFoundError"].filter((name) => error instanceof OpenAI[name]);
    return { kinds: known, status: error.status, code: error.code, param: error.param };
  }
  return null;
}

const create = (body) => client.chat.completions.create(body);
const runner = client.chat.completions.stream({ ...forced, stream_options: { include_usage: true } });

console.log(
  JSON.stringify({
    whole: await create(asked),
    chunks: await collect(await create({ ...asked, stream: true, stream_options: { include_usage: true } })),
    call: await create(forced),
    call_chunks: await collect(await create({ ...forced, stream: true })),
    assembled: await runner.finalChatCompletion(),
    structured: await create({ ...asked, max_tokens: 600, temperature: 1, seed: 3, response_format }),
    completion: await client.completions.create({ model: "tiny", prompt: "ab", temperature: 0, max_tokens: 5, logprobs: 1 }),
    response: await client.responses.create({ model: "tiny", input: messages[0].content, temperature: 0, max_output_tokens: 24 }),
    models: (await collect(await client.models.list())).map((model) => model.id),
    unknown: await failure(create({ ...asked, model: "nobody" })),
    wrong: await failure(create({ ...asked, temperature: 3 })),
  }),
);
