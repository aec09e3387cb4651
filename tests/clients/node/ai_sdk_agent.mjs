// Vercel's AI SDK: a loop with a tool, and structured output, over three APIs. Usage: ai_sdk_agent.mjs URL MODEL.
import { writeFileSync } from "node:fs";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, model] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const models = {
  compatible: createOpenAICompatible({ name: "roundhouse", baseURL: `${url}/v1`, supportsStructuredOutputs: true })(model),
  chat: openai.chat(model),
  responses: openai.responses(model),
  messages: createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })(model),
};
const tools = {
  write_file: tool({
    description: "Write a file.",
    inputSchema: z.object({ path: z.string(), content: z.string() }),
    execute: async ({ path, content }) => {
      writeFileSync(path, content);
      return "written";
    },
  }),
};
// Nothing is stored here, so what goes back must be the answer itself.
const providerOptions = { openai: { store: false } };
const output = Output.object({ schema: z.object({ city: z.string() }) });

for (const [name, model] of Object.entries(models)) {
  const task = { model, tools, providerOptions, stopWhen: stepCountIs(4), prompt: "Write the word hello into hello.txt." };
  const whole = await generateText(task);
  console.log(name, "whole:", whole.text);
  console.log(name, "streamed:", await streamText(task).text);
  const messages = [{ role: "user", content: task.prompt }, ...whole.response.messages, { role: "user", content: "And now?" }];
  console.log(name, "again:", (await generateText({ model, messages, providerOptions })).text);
  const structured = await generateText({ model, output, providerOptions, prompt: "Which city?" });
  console.log(name, "structured:", structured.output.city);
}
