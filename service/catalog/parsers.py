"""Which of vLLM's parsers fit a model that no catalogue describes: from its network class and its chat template. Pure.

A tool-call parser finds the calls in a model's answer, a reasoning parser separates its thoughts from the answer. The
template shows both formats. A reasoning parser on a model that does not think takes its whole answer for a thought, so
one is chosen only if the template shows that the model thinks unless a request says otherwise.
"""

import re
from dataclasses import dataclass
from typing import Literal

from service.catalog.engine_args import EngineValue

KEYS = ("tool_call_parser", "reasoning_parser")  # the engine settings that name them
OVERRIDE = "to choose others, set them in 'engine' of its entry, null for none"


@dataclass(frozen=True)
class Format:
    """What a template of a format contains (`marker`, a regular expression), and the parsers for it.

    `tool_call` finds its tool calls. `reasoning` is for models that think by default, `on_request` for those that do so
    only if a request asks: that one must take a text without marks for the answer. None where there is none.
    """

    marker: str
    tool_call: str | None
    reasoning: str | None = "qwen3"
    on_request: str | None = None


# The first whose marker is found applies, so the special ones come before those that resemble them.
FORMATS = (
    Format("<minimax:tool_call>", "minimax_m2", "minimax_m2"),
    Format(re.escape("<|tool_calls_section_begin|>"), "kimi_k2", "kimi_k2"),
    Format("<arg_key>", "glm45", "glm45"),
    Format("<function=", "qwen3_coder"),
    Format("<function_calls>", "olmo3", "olmo3"),
    Format(re.escape("[TOOL_CALLS]"), "mistral", "mistral"),
    Format("<｜tool▁calls▁begin｜>(?s:.)*```json", "deepseek_v3", "deepseek_r1"),
    Format("<｜tool▁calls▁begin｜>", "deepseek_v31", "deepseek_r1", on_request="deepseek_v3"),
    Format(re.escape("<|tool_call>call:"), "gemma4", None, on_request="gemma4"),
    Format("<start_function_call>", "functiongemma"),
    Format(r'parameters\\?": dictionary of argument name', "llama3_json"),
    Format(re.escape("[func_name1(params_name1"), "pythonic"),
    Format(r'<tool_call>(?s:.)*(?:name\\?"|tojson)', "hermes"),
)
NO_FORMAT = Format("", None)
# By network class: what differs from the format of the template.
CLASSES = {
    "GptOssForCausalLM": Format("", "openai", None),
    "GraniteMoeHybridForCausalLM": Format("<tool_call>", "granite4"),
    "Llama4ForConditionalGeneration": Format(re.escape("[func_name1(params_name1"), "llama4_pythonic"),
    "NemotronHForCausalLM": Format("<function=", "qwen3_coder", "nemotron_v3"),
}
SWITCH = r"(?:ns\.)?(?:enable_)?thinking"
ON = re.compile(
    rf"{SWITCH} is defined and (?:{SWITCH} is false|{SWITCH} == false|not {SWITCH})|{SWITCH} is defined else true"
    rf"|{SWITCH} is not defined or {SWITCH}(?! is false| == false)|set {SWITCH} = true|{SWITCH} ?\| ?default\(true\)",
    re.IGNORECASE,
)
OFF = re.compile(
    rf"{SWITCH} is defined else false|set {SWITCH} = false|{SWITCH} ?\| ?default\(false\)"
    rf"|{SWITCH} is defined and {SWITCH}|{SWITCH} is not defined or (?:not {SWITCH}|{SWITCH} (?:is|==) false)",
    re.IGNORECASE,
)
# A prompt for an answer that begins with an open thought.
OPENED = re.compile(r"<think>(?:\\n|\s)*['\"]")

Thinks = Literal["unless told not to", "always", "on request only", "never"]


def choose(architecture: str | None, template: str | None) -> tuple[dict[str, EngineValue], str]:
    """The engine settings of the parsers that fit, and one sentence about what was chosen, why, and how to change it.

    `architecture` is the network class of `config.json`, `template` the text of the chat template; None if unknown.
    """
    found = _format(architecture, template or "")
    thinks = _thinks(template or "")
    reasoning = {"unless told not to": found.reasoning, "always": found.reasoning, "on request only": found.on_request,
                 "never": None}[thinks]  # fmt: skip
    if thinks == "always" and reasoning == "qwen3":
        reasoning = "deepseek_r1"
    chosen: dict[str, EngineValue] = {}
    if found.tool_call:
        chosen |= {"enable_auto_tool_choice": True, "tool_call_parser": found.tool_call}
    if reasoning:
        chosen["reasoning_parser"] = reasoning
    return chosen, _sentence(architecture, template, found, thinks, reasoning)


def _format(architecture: str | None, template: str) -> Format:
    by_class = CLASSES.get(architecture or "")
    if by_class and re.search(by_class.marker, template):
        return by_class
    return next((one for one in FORMATS if re.search(one.marker, template)), NO_FORMAT)


def _thinks(template: str) -> Thinks:
    if "<think>" in template or "<|channel>" in template:
        if ON.search(template):
            return "unless told not to"
        if OFF.search(template):
            return "on request only"
    _, prompt, opening = template.rpartition("add_generation_prompt")
    return "always" if prompt and OPENED.search(opening) and "</think>" not in opening else "never"


def _sentence(
    architecture: str | None, template: str | None, found: Format, thinks: Thinks, reasoning: str | None
) -> str:
    if template is None and not found.tool_call:
        files = "no chat template of it is here ('roundhouse pull' fetches the files before vLLM does)"
        return f"no tool_call_parser and no reasoning_parser, for {files}; {OVERRIDE}"
    tools = f"tool_call_parser {found.tool_call}" if found.tool_call else "no tool_call_parser"
    shown = "the chat template" if found.marker else f"the class {architecture}"
    by = f"by {shown}" if found.tool_call else "the chat template shows no known format"
    thoughts = f"reasoning_parser {reasoning}" if reasoning else "no reasoning_parser"
    why = "the template does not show that it thinks" if thinks == "never" else f"it thinks {thinks}"
    return f"{tools} ({by}) and {thoughts} ({why}); {OVERRIDE}"
