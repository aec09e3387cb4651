"""How the models of the catalogue write tool calls: texts after their published formats. Pure.

`tool_readings` feeds them to vLLM's parsers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

BROKEN = "\ue000"  # within a string that looks like a token and is not: the model wrote it as ordinary characters


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Format:
    """How a family writes tool calls.

    `write` has the text of calls, of which there is at least one. `tokens` are strings that are one token of its
    vocabulary; `hidden` are those that vLLM leaves out of the text unless the parser asks for them. `end` ends an
    argument or a call. `tokenizer_mode` is that of the models in the catalogue to which it applies. `grammar` says that
    their tokenizer makes a grammar of the tools, which holds the model to this format where a call is required.
    """

    tool_parser: str
    variant: str  # where a parser has several formats
    write: Callable[[Sequence[Call]], str]
    end: str
    tokens: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    tokenizer_mode: str | None = None
    grammar: bool = False

    @property
    def name(self) -> str:
        """Unique among the formats."""
        return f"{self.tool_parser}, {self.variant}" if self.variant else self.tool_parser


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def raw(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def python(value: Any) -> str:
    """A Python literal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python(key)}: {python(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(python(one) for one in value) + "]"
    return to_json(value) if isinstance(value, str) else repr(value)


def delimited(value: Any, mark: str) -> str:
    """Gemma's own notation, with `mark` around strings."""
    if isinstance(value, dict):
        return "{" + members(value, mark) + "}"
    if isinstance(value, list):
        return "[" + ",".join(delimited(one, mark) for one in value) + "]"
    return f"{mark}{value}{mark}" if isinstance(value, str) else to_json(value)


def members(arguments: dict[str, Any], mark: str) -> str:
    return ",".join(f"{key}:{delimited(value, mark)}" for key, value in arguments.items())


def elements(arguments: dict[str, Any], mark: str) -> str:
    """MiniMax M3's elements, each tag after `mark`."""
    return "".join(f"{mark}<{key}>{element(value, mark)}{mark}</{key}>" for key, value in arguments.items())


def element(value: Any, mark: str) -> str:
    if isinstance(value, dict):
        return elements(value, mark)
    if isinstance(value, list):
        return "".join(elements({"item": one}, mark) for one in value)
    return raw(value)


def invocation(name: str, arguments: dict[str, Any], value: Callable[[Any], str]) -> str:
    return f"{name}({', '.join(f'{key}={value(one)}' for key, one in arguments.items())})"


def joined(separator: str, before: str, after: str, one: Callable[[Call], str]) -> Callable[[Sequence[Call]], str]:
    """A writer of calls that writes each with `one`, and something between, before and after them."""
    return lambda calls: before + separator.join(one(call) for call in calls) + after


def named(call: Call, key: str = "arguments") -> str:
    return to_json({"name": call.name, key: call.arguments})


def parameters(call: Call, begin: str, end: str) -> str:
    """A line per argument; in `begin`, NAME is its name and STRING whether it is a string."""
    return "".join(
        begin.replace("NAME", key).replace("STRING", to_json(isinstance(value, str))) + raw(value) + end
        for key, value in call.arguments.items()
    )


def dsml(block: str) -> Callable[[Sequence[Call]], str]:
    mark = "｜DSML｜"
    begin, end = f'<{mark}parameter name="NAME" string="STRING">', f"</{mark}parameter>\n"
    return joined(
        "\n",
        f"<{mark}{block}>\n",
        f"\n</{mark}{block}>",
        lambda call: f'<{mark}invoke name="{call.name}">\n{parameters(call, begin, end)}</{mark}invoke>',
    )


def kimi(calls: Sequence[Call]) -> str:
    written = (
        f"<|tool_call_begin|>functions.{call.name}:{place}<|tool_call_argument_begin|>{to_json(call.arguments)}"
        "<|tool_call_end|>"
        for place, call in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{''.join(written)}<|tool_calls_section_end|>"


def glm(call: Call, end: str) -> str:
    begin = f"<arg_key>NAME</arg_key>{end}<arg_value>"
    return f"<tool_call>{call.name}{end}{parameters(call, begin, f'</arg_value>{end}')}</tool_call>"


XML = ("<tool_call>", "</tool_call>")
ARGS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
DEEPSEEK = tuple(f"<｜tool▁{one}｜>" for one in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end"))
KIMI = tuple(
    f"<|tool_{one}|>"
    for one in ("calls_section_begin", "call_begin", "call_argument_begin", "call_end", "calls_section_end")
)
M3 = "]<]minimax[>["
MISTRAL = ("[TOOL_CALLS]",)
SECTION, CALL, SEP, CALL_END, SECTION_END = DEEPSEEK

hermes_text = joined("\n", "", "", lambda call: f"<tool_call>\n{named(call)}\n</tool_call>")
qwen_text = joined(
    "\n",
    "",
    "",
    lambda call: (
        f"<tool_call>\n<function={call.name}>\n"
        f"{parameters(call, '<parameter=NAME>' + chr(10), chr(10) + '</parameter>' + chr(10))}</function>\n</tool_call>"
    ),
)
list_text = joined(", ", "[", "]", lambda call: invocation(call.name, call.arguments, python))

HERMES = Format("hermes", "", hermes_text, "</tool_call>", XML)
QWEN = Format("qwen3_coder", "", qwen_text, "</parameter>", XML)
QWEN_XML = Format("qwen3_xml", "", qwen_text, "</parameter>", XML)
V3 = Format(
    "deepseek_v3",
    "",
    joined(
        "\n",
        SECTION,
        SECTION_END,
        lambda call: f"{CALL}function{SEP}{call.name}\n```json\n{to_json(call.arguments)}\n```{CALL_END}",
    ),
    "```",
    DEEPSEEK,
)
V31 = Format(
    "deepseek_v31",
    "",
    joined("", SECTION, SECTION_END, lambda call: f"{CALL}{call.name}{SEP}{to_json(call.arguments)}{CALL_END}"),
    CALL_END,
    DEEPSEEK,
)
V32 = Format("deepseek_v32", "", dsml("function_calls"), "</｜DSML｜parameter>", ("｜DSML｜",))
V4 = Format("deepseek_v4", "", dsml("tool_calls"), "</｜DSML｜parameter>", ("｜DSML｜",))
GLM45 = Format("glm45", "", joined("\n", "", "", lambda call: glm(call, "\n")), "</arg_value>", XML + ARGS)
GLM47 = Format("glm47", "", joined("", "", "", lambda call: glm(call, "")), "</arg_value>", XML + ARGS)
KIMI_K2 = Format("kimi_k2", "", kimi, "<|tool_call_end|>", KIMI, KIMI)
MISTRAL_V11 = Format(
    "mistral",
    "from tokenizer v11 on",
    joined("", "", "", lambda call: f"[TOOL_CALLS]{call.name}[ARGS]{to_json(call.arguments)}"),
    "[TOOL_CALLS]",
    (*MISTRAL, "[ARGS]"),
    grammar=True,
)
M2_BLOCK = joined(
    "\n",
    "<minimax:tool_call>\n",
    "\n</minimax:tool_call>",
    lambda call: (
        f'<invoke name="{call.name}">\n' + parameters(call, '<parameter name="NAME">', "</parameter>\n") + "</invoke>"
    ),
)
MINIMAX_M2 = Format("minimax_m2", "", M2_BLOCK, "</parameter>", ("<minimax:tool_call>", "</minimax:tool_call>"))
MINIMAX_M3 = Format(
    "minimax_m3",
    "",
    joined(
        "\n",
        f"{M3}<tool_call>\n",
        f"\n{M3}</tool_call>",
        lambda call: f'{M3}<invoke name="{call.name}">{elements(call.arguments, M3)}{M3}</invoke>',
    ),
    f"{M3}</invoke>",
    (M3,),
)
GEMMA_MARK = '<|"|>'
GEMMA4 = Format(
    "gemma4",
    "",
    joined("", "", "", lambda call: f"<|tool_call>call:{call.name}{delimited(call.arguments, GEMMA_MARK)}<tool_call|>"),
    "<tool_call|>",
    ("<|tool_call>", "<tool_call|>", GEMMA_MARK),
    ("<|tool_call>", "<tool_call|>", GEMMA_MARK),
)
OLMO3 = Format(
    "olmo3",
    "",
    joined(
        "\n",
        "<function_calls>",
        "</function_calls>",
        lambda call: invocation(call.name, call.arguments, to_json),
    ),
    ")",
)
PYTHON_TAGS = ("<|python_start|>", "<|python_end|>")
LLAMA = joined("; ", "", "", lambda call: named(call, "parameters"))
FORMATS = (
    V3, V31, V32, V4, GEMMA4, GLM45, GLM47,
    Format("granite4", "", hermes_text, "</tool_call>", XML),
    HERMES, KIMI_K2,
    Format("llama3_json", "", LLAMA, '"}', ("<|python_tag|>",), ("<|python_tag|>",)),
    Format("llama3_json", "after a tag", lambda calls: "<|python_tag|>" + LLAMA(calls), '"}', ("<|python_tag|>",),
           ("<|python_tag|>",)),
    Format("llama4_pythonic", "", list_text, ")]", PYTHON_TAGS, PYTHON_TAGS),
    MINIMAX_M2, MINIMAX_M3,
    Format("mistral", "before tokenizer v11",
           lambda calls: "[TOOL_CALLS]" + to_json([{"name": one.name, "arguments": one.arguments} for one in calls]),
           "}]", MISTRAL, MISTRAL, tokenizer_mode="hf"),
    MISTRAL_V11, OLMO3, QWEN, QWEN_XML,
    Format("functiongemma", "", joined("", "", "", lambda call: (
        f"<start_function_call>call:{call.name}{delimited(call.arguments, '<escape>')}<end_function_call>")),
        "<end_function_call>", ("<start_function_call>", "<end_function_call>", "<escape>")),
    Format("pythonic", "", list_text, ")]"),
)  # fmt: skip
# Parsers that do not run here, and why.
NOT_RUN = {
    "openai": "the openai-harmony library, which vLLM calls, reads tokens alone and needs OpenAI's own vocabulary "
    "`o200k_base`, which is a download",
}
