// The present request as a program. Pure.

const QUOTE = "'\\''";

/** Python's way to write a value of JSON. */
function python(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = indent + "    ";
  if (Array.isArray(value)) return `[${value.map((one) => python(one, inner)).join(", ")}]`;
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, inner)}`).join(", ")}}`;
}

const pythonArguments = (body) => Object.entries(body).map(([name, value]) => `    ${name}=${python(value)},\n`).join("");

const SNIPPETS = {
  curl: (base, path, body) =>
    `curl -N ${base}${path} \\\n  -H "Authorization: Bearer $ROUNDHOUSE_API_KEY" \\\n` +
    `  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(body, null, 2).replaceAll("'", QUOTE)}'\n`,
  python: (base, path, body) => {
    const chat = path.endsWith("chat/completions");
    const text = chat ? "chunk.choices[0].delta.content" : "chunk.choices[0].text";
    return (
      `import os\n\nfrom openai import OpenAI\n\n` +
      `client = OpenAI(base_url=${JSON.stringify(`${base}v1`)}, api_key=os.environ.get("ROUNDHOUSE_API_KEY", "none"))\n` +
      `stream = client.${chat ? "chat.completions" : "completions"}.create(\n${pythonArguments(body)})\n` +
      `for chunk in stream:\n    if chunk.choices:\n        print(${text} or "", end="", flush=True)\n`
    );
  },
  javascript: (base, path, body) => {
    const chat = path.endsWith("chat/completions");
    const text = chat ? "chunk.choices[0]?.delta.content" : "chunk.choices[0]?.text";
    return (
      `import OpenAI from "openai";\n\n` +
      `const client = new OpenAI({ baseURL: ${JSON.stringify(`${base}v1`)}, apiKey: process.env.ROUNDHOUSE_API_KEY ?? "none" });\n` +
      `const stream = await client.${chat ? "chat.completions" : "completions"}.create(${JSON.stringify(body, null, 2)});\n` +
      `for await (const chunk of stream) process.stdout.write(${text} ?? "");\n`
    );
  },
};

/** The request as a program in `language`; `base` is the gateway's address, with a slash at its end. */
export const snippet = (language, base, path, body) => SNIPPETS[language](base, path, body);
