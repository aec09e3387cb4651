"""Conversations, and the prompts that Mistral's own library, `mistral_common`, makes of them.

`python -m tests.support.mistral_prompts` writes tests/golden/mistral.yaml anew with the installed release.
"""

import json
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tests.support.fleets import ROOT

GOLDEN = ROOT / "tests/golden/mistral.yaml"
Message = dict[str, Any]
VERSIONS = ("v1", "v3", "v7")
TOOLED = ("v3", "v7")


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An answer."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def call(*calls: tuple[str, str], content: str = "") -> Message:
    """Tool calls, each an id of nine characters and arguments as JSON."""
    made = [
        {"id": key, "type": "function", "function": {"name": "add", "arguments": arguments}} for key, arguments in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(content: str, key: str = "abc123456") -> Message:
    """What a tool gave back."""
    return {"role": "tool", "name": "add", "content": content, "tool_call_id": key}


ADD = call(("abc123456", '{"a": 1, "b": "ü"}'))
TURNS = [user("First"), assistant("Answer"), user("Second")]
PLAIN: dict[str, list[Message]] = {
    "one message": TURNS[:1],
    "several turns": TURNS,
    "spaces": [user(" First "), assistant(" Answer  "), user(" Second\n")],
    "system": [system("Be brief."), TURNS[0]],
    "system and several turns": [system("Be brief."), *TURNS],
    "system and three questions": [system("Be brief."), *TURNS, assistant("Yes"), user("Third")],
    "two systems": [system("Be brief."), system("Be kind."), *TURNS],
}
WITH_TOOLS: dict[str, list[Message]] = {
    "tools": TURNS[:1],
    "tools and several turns": TURNS,
    "tools and system": [system("Be brief."), *TURNS],
    "call and result": [user("First"), ADD, result("3")],
    "system, call and result": [system("Be brief."), user("First"), ADD, result("3")],
    "call in an earlier turn": [user("First"), ADD, result("3"), assistant("It is 3."), user("Second")],
    "system and call in an earlier turn": [
        system("Be brief."), user("First"), ADD, result("3"), assistant("It is 3."), user("Second"),
    ],
    "two calls at once": [
        user("First"), call(("abc123456", "{}"), ("abc123457", '{"x": [1.0]}')), result("3"), result("4", "abc123457"),
    ],
    "call after a result": [
        user("First"), ADD, result("3"), call(("abc123457", "{}")), result("4", "abc123457"), assistant("7"),
        user("Second"),
    ],
    **{
        f"result {content!r}": [user("First"), ADD, result(content)]
        for content in (
            "", "sunny", "3 apples", '{"a":1,"b":[true,null]}', " [1,2]\n", "1.50", '"quoted"', r'"\u00fc"', "{'a': 1}",
        )
    },
}  # fmt: skip
WITH_WORDS = {"call with words": [user("First"), call(("abc123456", "{}"), content="Let me see. "), result("3")]}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds ü.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]


def conversations(version: str) -> dict[str, tuple[list[Message], list[dict[str, Any]] | None]]:
    """The conversations that a version of the format can express: messages and tools, by name."""
    plain = {name: (messages, None) for name, messages in PLAIN.items()}
    if version not in TOOLED:
        return {**plain}
    tooled = WITH_TOOLS | (WITH_WORDS if version == "v7" else {})
    return {**plain, **{name: (messages, TOOLS) for name, messages in tooled.items()}}


def as_vllm_gives_them(messages: list[Message]) -> list[Message]:
    """The messages as vLLM hands them to a template: the arguments of calls are read from their JSON."""
    given: list[Message] = json.loads(json.dumps(messages))
    for made in (made for message in given for made in message.get("tool_calls", ())):
        made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    return given


def tools_as_vllm_gives_them(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The tools as vLLM hands them to a template: what a client left out is None."""
    empty = {"description": None, "parameters": None}
    return tools and [{**tool, "function": {"name": "", **empty, **tool["function"]}} for tool in tools]


def mistral_commons(version: str, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
    """The prompt as `mistral_common` makes it. Sentencepiece's marks for spaces and line breaks are taken back."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

    tokenizer = _tokenizer(version)
    request = ChatCompletionRequest(messages=messages, tools=tools)  # type: ignore[arg-type, type-var]
    tokens = tokenizer.encode_chat_completion(request).tokens
    if version == "v7":
        return str(tokenizer.decode(tokens, special_token_policy=SpecialTokenPolicy.KEEP))
    # Decoding would lose the spaces with which texts begin.
    pieces = tokenizer.instruct_tokenizer.tokenizer
    text = "".join(pieces.id_to_piece(token) for token in tokens).replace("\u2581", " ").replace("<0x0A>", "\n")
    # Version 1 has no control tokens but BOS and EOS: the space after them only marks a text's beginning.
    return text.replace("<s> ", "<s>").replace("</s> [INST]", "</s>[INST]") if version == "v1" else text


@cache
def _tokenizer(version: str) -> Any:
    """The tokenizer of a version. Version 7's is Tekken, of which the library brings an earlier one."""
    import mistral_common
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    data = Path(mistral_common.__file__).parent / "data"
    if version != "v7":
        return MistralTokenizer.from_file(str(next(data.glob(f"*.model.{version}"))))
    tekken = json.loads((data / "tekken_240911.json").read_text(encoding="utf-8"))
    tekken["config"]["version"] = version
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tekken.json"
        path.write_text(json.dumps(tekken), encoding="utf-8")
        return MistralTokenizer.from_file(str(path))


def main() -> None:
    """Writes the golden file."""
    prompts = {
        version: {name: mistral_commons(version, *asked) for name, asked in conversations(version).items()}
        for version in VERSIONS
    }
    head = "# Written by `python -m tests.support.mistral_prompts`: the prompts that Mistral's own library makes.\n"
    written = {"mistral_common": metadata.version("mistral_common"), "prompts": prompts}
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=100_000, default_style='"')
    GOLDEN.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
