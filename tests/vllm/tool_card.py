"""What vLLM's parsers make of each family's tool calls and thoughts; printed, it is docs/tool-calls.md.

To regenerate the document: python -m tests.vllm.tool_card > docs/tool-calls.md
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.support.fleets import CATALOG
from tests.vllm.thinking_formats import THINKINGS, Thinking
from tests.vllm.tool_formats import FORMATS, NOT_RUN, Format
from tests.vllm.tool_readings import CASES, quiet, thinking_outcomes, tool_outcomes
from tests.vllm.tool_streams import Outcome

INTRODUCTION = """\
# Tool calls

<!-- Written by `python -m tests.vllm.tool_card > docs/tool-calls.md` with vLLM {release}. -->

A model writes its tool calls as text, each family in its own format, and a parser of vLLM finds them: the one that the
catalogue names, or that is chosen by class and chat template ([add-a-model.md](add-a-model.md)). The gateway passes
on what vLLM makes of them. This page says what that is in vLLM {release}, for texts in the published format of each
family, without weights: stubs of the tokenizers have the tokens that mark calls, and cut everything else at will.
It says nothing of how often a model keeps to its format.

Every text is read whole, as for a request that is not streamed, and as a stream: token by token, as two tokenizers cut
it; two, three and five tokens at a time; all at once; and in all ways to make two pieces of it. The right reading has
the names, the same JSON as arguments, and the text before them; white space around a text does not count.

| | the reading that is wrong |
|---|---|
| ok | none |
| W | of the whole |
| S | of a stream with one token at a time, which is the usual one |
| F | of a stream with two, three or five tokens at a time, as with speculative decoding or `stream_interval` |
| M | of a stream in two pieces, or in one: vLLM joins pieces where its server process falls behind its engine |

What follows:

- With `deepseek_v3` and `deepseek_v31`, leave out speculative decoding and `stream_interval`. Where the server process
  is busy a streamed call can still be lost; one that is not streamed is read right.
- The gateway could mend on the way only what it sees there: calls whose arguments are empty instead of `{{}}`, and a
  `<think>` that begins a thought. It does neither today. What a parser drops, nobody after it can know.

## Calls

- *no call*: an answer; *code*: an answer with brackets, braces and JSON.
- *one call*, with a string and a number; *two calls* in one turn; *text first*, then a call.
- *nested*: objects and a list as argument; *escapes*: quotes, backslashes, line breaks, other scripts; *breaks*: a \
program that begins and ends with line breaks; *digits*: a string of digits; *no arguments*.
- *end marker*: a string that has the text which ends an argument or a call in this format, in ordinary characters. \
A format that quotes strings, as JSON does, tells it from the marker; one that puts strings between marks as they are \
cannot, so no parser could.
- *required*, *named*: two calls for `"tool_choice": "required"`, one for a tool that is named. vLLM then holds the \
model to a grammar: for some parsers bare JSON, for others the format of the family.

{tools}

### What differs

{tool_differences}

### Not run

{not_run}

## Thoughts

The tool parser and the reasoning parser together, for models that think. A thought begins with a mark that either the
prompt ends with or the model writes. *cut off*: the output ends within the thought. The last two are answers of models
whose thinking a request turned off, or has not turned on.

{thoughts}

### What differs in thoughts

{thought_differences}"""
TITLES = {"code, no call": "code", "text, then a call": "text first", "outer line breaks": "breaks",
          "digits as text": "digits"}  # fmt: skip
THOUGHT_CASES = ("thought, answer", "thought, call", "cut off", "no thought, answer", "no thought, call")


def document() -> str:
    """All of docs/tool-calls.md, without the last line break. Takes a minute."""
    with quiet():
        release = importlib.import_module("vllm").__version__.partition("+")[0]
        tools = [(form, dict(tool_outcomes(form))) for form in FORMATS]
        thoughts = [(one, dict(thinking_outcomes(one))) for one in THINKINGS]
    names = [case.name for case in CASES]
    tool_rows = [([families_of(form), f"`{form.tool_parser}`", form.variant], found) for form, found in tools]
    thought_rows = [(thinking_columns(one), found) for one, found in thoughts]
    return INTRODUCTION.format(
        release=release,
        tools="\n".join(table(["family", "parser", "format"], names, tool_rows)),
        tool_differences="\n".join(
            differences((f"`{form.tool_parser}` {form.variant}", found) for form, found in tools)
        ),
        not_run="\n".join(f"- `{parser}` ({families(parser)}): {why}." for parser, why in NOT_RUN.items()),
        thoughts="\n".join(table(["family", "reasoning parser", "tool parser", "begins"], THOUGHT_CASES, thought_rows)),
        thought_differences="\n".join(differences((thinking_title(one), found) for one, found in thoughts)),
    )


def families(parser: str, mode: str | None = None, *, any_mode: bool = True) -> str:
    """The families with models that have this tool parser; of those with this tokenizer mode, if not all count."""
    found = (
        CATALOG.family_of[model.id]
        for model in CATALOG.models.values()
        if model.engine.get("tool_call_parser") == parser and (any_mode or model.engine.get("tokenizer_mode") == mode)
    )
    return ", ".join(dict.fromkeys(found)) or "none in the catalogue"


def families_of(form: Format) -> str:
    several = len([one for one in FORMATS if one.tool_parser == form.tool_parser and one.grammar != form.grammar]) > 0
    return families(form.tool_parser, form.tokenizer_mode, any_mode=not several)


def thinking_families(one: Thinking) -> list[str]:
    """The families with models that think this way."""
    tool_parser = one.format.tool_parser if one.format else None
    found = (
        CATALOG.family_of[model.id]
        for model in CATALOG.models.values()
        if model.engine.get("reasoning_parser") == one.reasoning_parser
        and model.engine.get("tool_call_parser") == tool_parser
        and (model.thinking is not None and model.thinking.default == "always") == (one.closed is None)
    )
    return [family for family in dict.fromkeys(found) if not one.only or family in one.only]


def thinking_columns(one: Thinking) -> list[str]:
    tool_parser = f"`{one.format.tool_parser}`" if one.format else "none"
    return [
        ", ".join(thinking_families(one)),
        f"`{one.reasoning_parser}`",
        tool_parser,
        "prompt" if one.opened else "model",
    ]


def thinking_title(one: Thinking) -> str:
    return f"`{one.reasoning_parser}` ({', '.join(thinking_families(one))})"


Row = tuple[Sequence[str], Mapping[str, Outcome]]


def table(head: Sequence[str], names: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    """Markdown, with a column for each case."""
    yield "| " + " | ".join([*head, *(TITLES.get(name, name) for name in names)]) + " |"
    yield "|---" * (len(head) + len(names)) + "|"
    for first, found in rows:
        yield "| " + " | ".join([*first, *(found[name].letters if name in found else "–" for name in names)]) + " |"


def differences(rows: Iterable[tuple[str, Mapping[str, Outcome]]]) -> Iterator[str]:
    """A list of what is wrong; cases with the same mistake share an item."""
    for title, found in rows:
        cases: dict[str, list[str]] = {}
        for name, outcome in found.items():
            if outcome.letters != "ok":
                cases.setdefault(outcome.sentence, []).append(TITLES.get(name, name))
        if cases:
            yield f"- {title.strip()}"
            yield from (f"  - *{'*, *'.join(names)}*: {sentence}" for sentence, names in cases.items())


if __name__ == "__main__":
    print(document())
