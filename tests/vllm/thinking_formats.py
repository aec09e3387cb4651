"""How the models of the catalogue write thoughts: texts after their published formats. Pure."""

from dataclasses import dataclass

from tests.vllm.tool_formats import (
    GEMMA4,
    GLM45,
    GLM47,
    HERMES,
    KIMI_K2,
    MINIMAX_M2,
    MINIMAX_M3,
    MISTRAL_V11,
    OLMO3,
    QWEN,
    QWEN_XML,
    V3,
    V4,
    V31,
    V32,
    Format,
)


@dataclass(frozen=True)
class Thinking:
    """How models with one reasoning parser think.

    A thought stands between `start` and `end`. `opened` says that the prompt ends with `start`, so that the model does
    not write it. `closed` is the end of the prompt for an answer without a thought, None where the models always
    think; `switch` are the template's arguments for that one, `think` those for thinking. `only` names the families
    where others with the same parsers begin otherwise.
    """

    reasoning_parser: str
    format: Format | None
    start: str
    end: str
    opened: bool
    closed: str | None
    switch: dict[str, bool]
    think: dict[str, bool]
    tokens: tuple[str, ...]
    only: tuple[str, ...] = ()


QWEN_CLOSED = "<think>\n\n</think>\n\n"
TIGHT = ("<think>", "</think>")


def think(
    parser: str, form: Format | None, *, opened: bool, closed: str | None = None, switch: str = "enable_thinking",
    marks: tuple[str, str] = ("<think>\n", "\n</think>\n\n"), tokens: tuple[str, ...] = TIGHT,
    only: tuple[str, ...] = (),
) -> Thinking:  # fmt: skip
    on = {} if closed is None else {switch: True}
    return Thinking(parser, form, *marks, opened, closed, {switch: False}, on, tokens, only)


THINKINGS = (
    think("deepseek_r1", None, opened=False, only=("phi-4",)),
    think("deepseek_r1", None, opened=True, only=("deepseek-r1-distill",)),
    think("deepseek_r1", V3, opened=False),
    think("deepseek_v3", V31, opened=True, closed="</think>", switch="thinking", marks=TIGHT),
    think("deepseek_v3", V32, opened=True, closed="</think>", switch="thinking", marks=TIGHT),
    think("deepseek_v4", V4, opened=True, closed="</think>", switch="thinking", marks=TIGHT),
    think("gemma4", GEMMA4, opened=False, closed="", marks=("<|channel>thought\n", "<channel|>"),
          tokens=("<|channel>", "<channel|>")),
    think("glm45", GLM45, opened=False, closed="<think></think>", marks=("<think>", "</think>\n")),
    think("glm45", GLM47, opened=True, closed="</think>", marks=TIGHT),
    think("kimi_k2", KIMI_K2, opened=False, marks=TIGHT),
    think("kimi_k2", KIMI_K2, opened=True, closed="<think></think>", switch="thinking", marks=TIGHT),
    think("minimax_m2", MINIMAX_M2, opened=True),
    think("minimax_m3", MINIMAX_M3, opened=False, closed="</mm:think>", marks=("<mm:think>", "</mm:think>"),
          tokens=("<mm:think>", "</mm:think>")),
    think("mistral", MISTRAL_V11, opened=False, marks=("[THINK]", "[/THINK]"), tokens=("[THINK]", "[/THINK]")),
    think("mistral", MISTRAL_V11, opened=False, closed="", marks=("[THINK]", "[/THINK]"),
          tokens=("[THINK]", "[/THINK]")),
    think("nemotron_v3", QWEN, opened=True, closed="<think></think>"),
    think("nemotron_v3", QWEN_XML, opened=True, closed="<think></think>"),
    think("olmo3", OLMO3, opened=True, marks=TIGHT, tokens=(" </", "</", "think", ">")),
    think("qwen3", None, opened=False, closed=QWEN_CLOSED),
    think("qwen3", HERMES, opened=False, closed=QWEN_CLOSED),
    think("qwen3", HERMES, opened=True),
    think("qwen3", QWEN, opened=True, closed=QWEN_CLOSED),
)  # fmt: skip
