// What the page asks the gateway for. The key is kept for this tab alone, and sent in no address.

const KEPT = "roundhouse.key";

/** The gateway's own address, with the prefix before it, if there is one. */
export const base = new URL("../", import.meta.url).href;

export const key = {
  get: () => sessionStorage.getItem(KEPT) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEPT, value) : sessionStorage.removeItem(KEPT)),
};

/** An answer that is an error, or none at all (status 0). `requestId` leads to the gateway's log line. */
export class ApiError extends Error {
  constructor(status, code, message, requestId) {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

async function send(path, { body, signal } = {}) {
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  let answer;
  try {
    answer = await fetch(new URL(path, base), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The gateway cannot be reached.", "");
  }
  if (answer.ok) return answer;
  const said = await answer.json().then((json) => json.error ?? {}, () => ({}));
  const text = said.message ?? `The gateway answered with status ${answer.status}.`;
  throw new ApiError(answer.status, said.code ?? "", text, answer.headers.get("x-request-id") ?? "");
}

/** The JSON at a path: of a GET, or of a POST where there is a body. It must come within `seconds`. */
export async function ask(path, body, seconds = 10) {
  return (await send(path, { body, signal: AbortSignal.timeout(seconds * 1000) })).json();
}

/**
 * Streams a request. Calls `onHead(headers)`, `onComment(text)` for a comment, which says why the stream waits, and
 * `onEvent(object)` for each event.
 */
export async function stream(path, body, signal, { onHead, onComment, onEvent }) {
  const answer = await send(path, { body, signal });
  onHead(answer.headers);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let done = false;
  for (;;) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith(":")) onComment(event.slice(1).trim());
      const data = /^data: ?(.*)$/m.exec(event)?.[1];
      if (data === undefined) continue;
      if (data === "[DONE]") done = true;
      else {
        const parsed = JSON.parse(data);
        if (parsed.error) throw new ApiError(200, parsed.error.code ?? "", parsed.error.message, "");
        onEvent(parsed);
      }
    }
  }
  if (!done) throw new ApiError(200, "", "The answer broke off.", answer.headers.get("x-request-id") ?? "");
}
