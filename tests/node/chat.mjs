// One conversation with the official SDK, not streamed and streamed; prints what came back as one line of JSON.
import OpenAI from "openai";

const [, , baseURL, model, question] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none" });
const request = { model, temperature: 0, max_tokens: 40, messages: [{ role: "user", content: question }] };

const whole = await client.chat.completions.create(request);
let streamed = "";
let chunks = 0;
let usage = null;
const stream = await client.chat.completions.create({
  ...request,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  chunks += 1;
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

let refused = null;
try {
  await client.chat.completions.create({ ...request, model: "no-such-model" });
} catch (error) {
  refused = { status: error.status, code: error.code, type: error.type };
}

console.log(JSON.stringify({ whole: whole.choices[0].message.content, model: whole.model, streamed, chunks, usage, refused }));
