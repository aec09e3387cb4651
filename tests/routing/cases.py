"""What a requested model name leads to: the cases that test the router and, printed, are docs/routing.md.

To write the document anew: python -m tests.routing.cases > docs/routing.md
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from service.protocol.generation import GENERATION, Kind, Need
from service.routing.resolve import PREFERENCES, PURPOSES, automatic
from tests.support.fleets import CATALOG

FLEETS = {
    "pebble": """\
models:
  - model: pebble-chat
  - model: pebble-instruct
  - model: pebble-code
  - model: pebble-base
aliases:
  gpt-4o-mini: pebble-chat
  claude-haiku: pebble-chat
""",
    "llama": """\
models:
  - model: llama-2-13b-chat
    aliases: [support-bot]
    adapters:
      - {id: legal-tone, path: ./adapters/legal-tone}
  - model: llama-2-7b-chat
  - model: llama-2-7b
  - model: llama-2-13b
aliases:
  legal: legal-tone
  writer: llama-2-7b
""",
    "code": """\
models:
  - model: code-llama-7b
  - model: code-llama-7b-python
  - model: code-llama-7b-instruct
""",
    "mixed": """\
models:
  - model: ./weights/SorskootLLM-v2-13b-instruct
  - model: llama-2-7b-chat
  - model: code-llama-13b-instruct
  - model: code-llama-34b
  - model: BAAI/bge-small-en-v1.5
""",
    "defaults": """\
models:
  - model: llama-2-70b-chat
  - model: llama-2-7b-chat
  - model: llama-2-70b
  - model: llama-2-7b
  - model: code-llama-34b
  - model: code-llama-7b
  - model: code-llama-7b-instruct
defaults:
  chat: llama-2-7b-chat
  base: llama-2-7b
  code: code-llama-7b
aliases:
  llama-2-13b: llama-2-70b-chat
""",
    "embeddings": """\
models:
  - model: BAAI/bge-small-en-v1.5
""",
    "templated": """\
models:
  - model: llama-2-7b
    chat_template: ./house.jinja
""",
}


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error, and the served names that its message offers."""

    status: int
    code: str
    offers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One request, and where it must go: a model and the reason given, or a refusal."""

    section: str
    fleet: str
    requested: str
    need: Need
    expected: str | Refusal
    why: str = ""


TALK = Need("chat")
LONG_TALK = Need("chat", turns=3)
CODE_TALK = Need("chat", contents=("```",))
TOOL_TALK = Need("chat", tools=True)
TEXT = Need("completion")
CODE_TEXT = Need("completion", contents=("```",))
GAP = Need("infill")
VECTORS = Need("embedding")


def wrong(*offers: str) -> Refusal:
    """The model is known and cannot do this."""
    return Refusal(400, "unsupported_for_model", offers)


def unknown(*offers: str) -> Refusal:
    """Nothing is served under this name."""
    return Refusal(404, "model_not_found", offers)


ID = "The id of a served model, or of an adapter"
ALIAS = "An alias"
FAMILY = "A family, or a family and a size"
VARIANT = "A variant"
TASK = "A task"
AUTO = "`auto`"
ELSE = "Anything else"

CASES: tuple[Case, ...] = (
    # An id is an order, not a wish.
    Case(ID, "pebble", "pebble-chat", TALK, "pebble-chat", "id"),
    Case(ID, "pebble", "pebble-instruct", LONG_TALK, "pebble-instruct", "id"),
    Case(ID, "pebble", "pebble-base", TEXT, "pebble-base", "id"),
    Case(ID, "pebble", "pebble-chat", TEXT, "pebble-chat", "id"),
    Case(ID, "pebble", "pebble-code", GAP, "pebble-code", "id"),
    Case(ID, "llama", "llama-2-7b-chat", TALK, "llama-2-7b-chat", "id"),
    Case(ID, "llama", "legal-tone", TALK, "legal-tone", "adapter of llama-2-13b-chat"),
    Case(ID, "llama", "legal-tone", TEXT, "legal-tone", "adapter of llama-2-13b-chat"),
    Case(ID, "mixed", "sorskootllm-v2-13b-instruct", TALK, "sorskootllm-v2-13b-instruct", "id"),
    Case(ID, "mixed", "bge-small-en-v1.5", VECTORS, "bge-small-en-v1.5", "id"),
    Case(ID, "templated", "llama-2-7b", TALK, "llama-2-7b", "id"),
    Case(ID, "pebble", "pebble-base", TALK, wrong("pebble-chat", "pebble-instruct")),
    Case(ID, "pebble", "pebble-code", TALK, wrong("pebble-chat", "pebble-instruct")),
    Case(ID, "pebble", "pebble-chat", GAP, wrong("pebble-code")),
    Case(ID, "pebble", "pebble-chat", VECTORS, wrong()),
    Case(ID, "llama", "llama-2-13b", TALK, wrong("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(ID, "llama", "legal-tone", GAP, wrong()),
    Case(ID, "code", "code-llama-7b", TALK, wrong("code-llama-7b-instruct")),
    Case(ID, "code", "code-llama-7b-python", GAP, wrong("code-llama-7b", "code-llama-7b-instruct")),
    Case(ID, "mixed", "code-llama-34b", GAP, wrong("code-llama-13b-instruct")),
    Case(ID, "mixed", "code-llama-34b", TALK, wrong("code-llama-13b-instruct")),
    Case(ID, "mixed", "llama-2-7b-chat", VECTORS, wrong("bge-small-en-v1.5")),
    Case(ID, "mixed", "bge-small-en-v1.5", TALK,
         wrong("llama-2-7b-chat", "sorskootllm-v2-13b-instruct", "code-llama-13b-instruct")),
    Case(ID, "mixed", "bge-small-en-v1.5", TEXT,
         wrong("code-llama-13b-instruct", "code-llama-34b", "sorskootllm-v2-13b-instruct")),
    # An alias stands for one id, and is refused where that id is.
    Case(ALIAS, "pebble", "gpt-4o-mini", TALK, "pebble-chat", "alias of pebble-chat"),
    Case(ALIAS, "pebble", "claude-haiku", LONG_TALK, "pebble-chat", "alias of pebble-chat"),
    Case(ALIAS, "llama", "support-bot", TALK, "llama-2-13b-chat", "alias of llama-2-13b-chat"),
    Case(ALIAS, "llama", "legal", TALK, "legal-tone", "alias of legal-tone"),
    Case(ALIAS, "llama", "writer", TEXT, "llama-2-7b", "alias of llama-2-7b"),
    Case(ALIAS, "defaults", "llama-2-13b", TALK, "llama-2-70b-chat", "alias of llama-2-70b-chat"),
    Case(ALIAS, "llama", "writer", TALK, wrong("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(ALIAS, "pebble", "gpt-4o-mini", GAP, wrong("pebble-code")),
    # A family leaves the variant to the request, and the size to the fleet's order.
    Case(FAMILY, "pebble", "pebble", TALK, "pebble-chat", "family pebble, chat fits chat"),
    Case(FAMILY, "pebble", "pebble", TEXT, "pebble-base", "family pebble, base fits completion"),
    Case(FAMILY, "pebble", "pebble", GAP, "pebble-code", "family pebble, code fits infill"),
    Case(FAMILY, "pebble", "pebble", VECTORS, wrong()),
    Case(FAMILY, "llama", "llama-2", TALK, "llama-2-13b-chat", "family llama-2, chat fits chat"),
    Case(FAMILY, "llama", "llama-2", TEXT, "llama-2-7b", "family llama-2, base fits completion"),
    Case(FAMILY, "llama", "llama-2", GAP, wrong()),
    # A family and a size may be the id of a base model too, and an id comes first.
    Case(FAMILY, "llama", "llama-2-7b", TEXT, "llama-2-7b", "id"),
    Case(FAMILY, "llama", "llama-2-7b", TALK, wrong("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(FAMILY, "mixed", "llama-2-7b", TALK, "llama-2-7b-chat", "family llama-2-7b, chat fits chat"),
    Case(FAMILY, "mixed", "llama-2-7b", TEXT, "llama-2-7b-chat", "family llama-2-7b, chat fits completion"),
    Case(FAMILY, "mixed", "sorskootllm-13b", TALK, "sorskootllm-v2-13b-instruct",
         "family sorskootllm-13b, instruct fits chat"),
    Case(FAMILY, "mixed", "bge", VECTORS, "bge-small-en-v1.5", "family bge, embedding fits embedding"),
    Case(FAMILY, "mixed", "code-llama", TALK, "code-llama-13b-instruct", "family code-llama, code fits chat"),
    Case(FAMILY, "mixed", "code-llama-13b", GAP, "code-llama-13b-instruct", "family code-llama-13b, code fits infill"),
    Case(FAMILY, "code", "code-llama", TALK, "code-llama-7b-instruct", "family code-llama, code fits chat"),
    Case(FAMILY, "code", "code-llama", TEXT, "code-llama-7b", "family code-llama, code fits completion"),
    Case(FAMILY, "defaults", "llama-2", TALK, "llama-2-70b-chat", "family llama-2, chat fits chat"),
    Case(FAMILY, "defaults", "code-llama", GAP, "code-llama-7b", "family code-llama, code fits infill"),
    Case(FAMILY, "templated", "llama-2", TALK, "llama-2-7b", "family llama-2, base fits chat"),
    # A variant leads to the fleet's default for it, or else to the first of the fleet that fits.
    Case(VARIANT, "pebble", "chat", TALK, "pebble-chat", "variant chat"),
    Case(VARIANT, "pebble", "instruct", TALK, "pebble-instruct", "variant instruct"),
    Case(VARIANT, "pebble", "code", TEXT, "pebble-code", "variant code"),
    Case(VARIANT, "pebble", "base", TEXT, "pebble-base", "variant base"),
    Case(VARIANT, "pebble", "base", TALK, wrong("pebble-chat", "pebble-instruct")),
    Case(VARIANT, "pebble", "embedding", VECTORS, unknown()),
    Case(VARIANT, "mixed", "embedding", VECTORS, "bge-small-en-v1.5", "variant embedding"),
    Case(VARIANT, "mixed", "embedding", TALK,
         wrong("llama-2-7b-chat", "sorskootllm-v2-13b-instruct", "code-llama-13b-instruct")),
    Case(VARIANT, "mixed", "base", TEXT, unknown()),
    Case(VARIANT, "llama", "chat", TALK, "llama-2-13b-chat", "variant chat"),
    Case(VARIANT, "defaults", "chat", TALK, "llama-2-7b-chat", "variant chat"),
    Case(VARIANT, "defaults", "base", TEXT, "llama-2-7b", "variant base"),
    Case(VARIANT, "defaults", "code", GAP, "code-llama-7b", "variant code"),
    Case(VARIANT, "defaults", "code", TALK, "code-llama-7b-instruct", "variant code"),
    Case(VARIANT, "code", "code", TALK, "code-llama-7b-instruct", "variant code"),
    # A task stands for the variants of the catalogue's table, best first.
    Case(TASK, "pebble", "task:summarization", TALK, "pebble-instruct", "task summarization"),
    Case(TASK, "pebble", "task:summarization", TEXT, "pebble-instruct", "task summarization"),
    Case(TASK, "pebble", "task:generation", TEXT, "pebble-base", "task generation"),
    Case(TASK, "pebble", "task:generation", TALK, "pebble-instruct", "task generation"),
    Case(TASK, "pebble", "task:question-answering", TALK, "pebble-instruct", "task question-answering"),
    Case(TASK, "pebble", "task:understanding", TALK, "pebble-instruct", "task understanding"),
    Case(TASK, "llama", "task:understanding", TEXT, "llama-2-7b", "task understanding"),
    Case(TASK, "llama", "task:understanding", TALK, "llama-2-13b-chat", "task understanding"),
    Case(TASK, "pebble", "task:extraction", TALK, "pebble-instruct", "task extraction"),
    Case(TASK, "pebble", "task:classification", TALK, "pebble-instruct", "task classification"),
    Case(TASK, "pebble", "task:sentiment", TALK, "pebble-instruct", "task sentiment"),
    Case(TASK, "pebble", "task:ner", TALK, "pebble-instruct", "task ner"),
    Case(TASK, "pebble", "task:dialogue", LONG_TALK, "pebble-chat", "task dialogue"),
    Case(TASK, "pebble", "task:support", TALK, "pebble-chat", "task support"),
    Case(TASK, "pebble", "task:social", TALK, "pebble-chat", "task social"),
    Case(TASK, "pebble", "task:code-completion", GAP, "pebble-code", "task code-completion"),
    Case(TASK, "pebble", "task:code-completion", TEXT, "pebble-code", "task code-completion"),
    Case(TASK, "pebble", "task:code-chat", TALK, "pebble-instruct", "task code-chat"),
    Case(TASK, "code", "task:code-chat", TALK, "code-llama-7b-instruct", "task code-chat"),
    Case(TASK, "code", "task:code-completion", TEXT, "code-llama-7b", "task code-completion"),
    # Also where plain code models could answer, and come first in the fleet or as its default.
    Case(TASK, "code", "task:code-refactoring", TEXT, "code-llama-7b-instruct", "task code-refactoring"),
    Case(TASK, "code", "task:code-explanation", TALK, "code-llama-7b-instruct", "task code-explanation"),
    Case(TASK, "defaults", "task:code-explanation", TEXT, "code-llama-7b-instruct", "task code-explanation"),
    Case(TASK, "pebble", "task:code-refactoring", TEXT, "pebble-code", "task code-refactoring"),
    Case(TASK, "llama", "task:ner", TALK, "llama-2-13b-chat", "task ner"),
    Case(TASK, "defaults", "task:support", TALK, "llama-2-7b-chat", "task support"),
    Case(TASK, "defaults", "task:code-completion", GAP, "code-llama-7b", "task code-completion"),
    Case(TASK, "pebble", "task:code-completion", TALK, wrong("pebble-chat", "pebble-instruct")),
    Case(TASK, "code", "task:summarization", TALK, unknown()),
    Case(TASK, "pebble", "task:translation", TALK, unknown()),
    # `auto` goes by what the request visibly needs.
    Case(AUTO, "pebble", "auto", TALK, "pebble-instruct", "auto: a single instruction"),
    Case(AUTO, "pebble", "auto", LONG_TALK, "pebble-chat", "auto: several turns"),
    Case(AUTO, "pebble", "auto", TOOL_TALK, "pebble-instruct", "auto: tools"),
    Case(AUTO, "pebble", "auto", CODE_TALK, "pebble-instruct", "auto: code in the conversation"),
    Case(AUTO, "pebble", "auto", TEXT, "pebble-base", "auto: plain text"),
    Case(AUTO, "pebble", "auto", CODE_TEXT, "pebble-code", "auto: code in the prompt"),
    Case(AUTO, "pebble", "auto", GAP, "pebble-code", "auto: a suffix"),
    Case(AUTO, "pebble", "auto", VECTORS, unknown()),
    Case(AUTO, "mixed", "auto", TALK, "sorskootllm-v2-13b-instruct", "auto: a single instruction"),
    Case(AUTO, "mixed", "auto", CODE_TALK, "code-llama-13b-instruct", "auto: code in the conversation"),
    Case(AUTO, "mixed", "auto", GAP, "code-llama-13b-instruct", "auto: a suffix"),
    Case(AUTO, "mixed", "auto", VECTORS, "bge-small-en-v1.5", "auto: embeddings"),
    Case(AUTO, "defaults", "auto", LONG_TALK, "llama-2-7b-chat", "auto: several turns"),
    Case(AUTO, "code", "auto", TALK, "code-llama-7b-instruct", "auto: a single instruction"),
    Case(AUTO, "llama", "auto", CODE_TEXT, "llama-2-7b", "auto: code in the prompt"),
    Case(AUTO, "llama", "auto", GAP, wrong()),
    Case(AUTO, "templated", "auto", TALK, "llama-2-7b", "auto: a single instruction"),
    Case(AUTO, "embeddings", "auto", TALK, unknown()),
    # What nothing is served under is never guessed at.
    Case(ELSE, "pebble", "pebble-chta", TALK, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(ELSE, "pebble", "Pebble-Chat", TALK, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(ELSE, "pebble", "gpt-4o", TALK, unknown("gpt-4o-mini")),
    Case(ELSE, "pebble", "llama-2-7b-chat", TALK, unknown()),
    Case(ELSE, "pebble", "pebble-chat ", TALK, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(ELSE, "llama", "meta-llama/Llama-2-7b-chat-hf", TALK,
         unknown("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-7b")),
    Case(ELSE, "llama", "llama-2-70b", TALK, unknown("llama-2-7b", "llama-2-13b", "llama-2")),
    Case(ELSE, "llama", "legal-tome", TALK, unknown("legal-tone", "legal")),
    Case(ELSE, "mixed", "code-lama", TALK, unknown("code-llama", "code-llama-34b", "code-llama-13b")),
    Case(ELSE, "mixed", "sorskoot", TALK, unknown("sorskootllm", "sorskootllm-13b")),
    Case(ELSE, "embeddings", "bge-large", VECTORS, unknown("bge-small", "bge")),
    Case(ELSE, "pebble", "quantum", TALK, unknown()),
)  # fmt: skip

INTRODUCTION = """\
# Routing: what the `model` of a request may be

<!-- Written by `python -m tests.routing.cases > docs/routing.md` from the cases that test the router. -->

A client may ask for one model by its id, or leave the choice to Roundhouse: name a family, a variant, a task, or say
`auto`. Every answer says what was chosen and why.

## The order of the rules

The first rule that matches decides.

| the client sends `model` | and the request goes to |
|---|---|
| the id of a served model, or of an adapter | exactly that; never another one in its place |
| an alias | the model or adapter that the fleet file names |
| a family, or a family and a size: `llama-2`, `llama-2-13b` | the served model of it that fits the request best |
| a variant: {variants} | the fleet's default for that variant, or else the first of the fleet that fits |
| `task:` and a task: `task:summarization` | the variants of the task table below, the first that is served and fits |
| `auto` | the variants that suit what the request visibly needs |
| anything else | `404 model_not_found`, with the closest names, or some of those served if none is close |

A name is compared as it is written: `Pebble-Chat` is not `pebble-chat`, and a hub id is not an id.

Roundhouse never substitutes silently. A name that means one model, by id, adapter or alias, leads to that model or to
an error. A model that cannot answer this kind of request gives `400 unsupported_for_model`, and the message names up to
three served models that can: of the same family where there are any, else of the whole fleet.

## What fits a request

A request needs one of four things, which follows from its endpoint alone:

{endpoints}

| the request | is refused by a model that | variants tried when the name leaves them open, best first |
|---|---|---|
{preferences}

A model is tried only if it can answer: a conversation needs a chat template, which the fleet file may add with
`template:`. Among models of one variant the fleet's `defaults:` decide where a variant, a task or `auto` was asked for;
after that, and for families always, the order in the fleet file does. So write the size that should answer first.

## `auto`

The first row that applies decides. Nothing but the request itself is looked at, and no model is asked.

| what the request shows | variants tried, best first | the reason it gives |
|---|---|---|
{auto}

Code is a Markdown fence, or a line that begins as one of a program does (`def `, `class `, `import `, `#include` …).

## Tasks

`task:NAME` tries the variants that suit the task, best first, and then some more. The table is `models/tasks.yaml`; an
entry added there is a new task. Of code models those that follow instructions go first where the table says so.

| name | is asked to | suits it | otherwise |
|---|---|---|---|
{tasks}

## Which one was it?

Each answer carries these headers, streamed or not, and its `model` field repeats the first:

| header | says |
|---|---|
| `x-roundhouse-model` | the id of the model or adapter that answered |
| `x-roundhouse-replica` | which of its replicas |
| `x-roundhouse-route-reason` | which rule led there: the last column of the tables below |

To ask without running anything, send the request to `/v1/route`, its path beside it. Everything but `model` may be left
out:

```console
$ curl localhost:3000/v1/route -H 'content-type: application/json' \\
    -d '{{"endpoint": "/v1/completions", "model": "pebble", "prompt": "def f(", "suffix": "return x"}}'
```

Before there is a service, the command line answers from the fleet file alone:

```console
$ roundhouse route pebble --endpoint /v1/completions --suffix
pebble -> pebble-code (code), because of family pebble, code fits infill
```

## Every case

Each line below is a test. The fleets they stand in are at the end.
"""

CONDITIONS: tuple[tuple[str, Need], ...] = (
    ("`/v1/embeddings`", VECTORS),
    ("a completion with `suffix`", GAP),
    ("a completion whose prompt holds code", CODE_TEXT),
    ("any other completion", TEXT),
    ("a conversation with `tools`", TOOL_TALK),
    ("a conversation that holds code", CODE_TALK),
    ("a conversation with more than one user turn", LONG_TALK),
    ("any other conversation", TALK),
)
KINDS: dict[Kind, str] = {
    "chat": "a conversation",
    "completion": "a completion",
    "infill": "a completion with `suffix`",
    "embedding": "embeddings",
}


def told(need: Need) -> str:
    """The request in words."""
    words = KINDS[need.kind]
    if need.turns > 1:
        words += f", {need.turns} turns"
    if need.code:
        words += ", with code"
    return words + (", with tools" if need.tools else "")


def quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def outcome(case: Case) -> str:
    """The last two columns of a case."""
    if isinstance(case.expected, str):
        return f"`{case.expected}` | {case.why}"
    offers = f"; offers {quoted(case.expected.offers)}" if case.expected.offers else ""
    return f"**{case.expected.status}** `{case.expected.code}`{offers} | "


def endpoints() -> Iterator[str]:
    others = {"/v1/completions": "a completion; with `suffix` it fills in the middle", "/v1/embeddings": "embeddings"}
    yield f"- {quoted(tuple(one.path for one in GENERATION if one.path not in others))}: a conversation."
    yield from (f"- `{path}`: {words}." for path, words in others.items())


def document() -> str:
    """All of docs/routing.md."""
    preferences = (
        f"| {KINDS[kind]} | {PURPOSES[kind].partition(': it ')[2]} | {quoted(tuple(variants))} |"
        for kind, variants in PREFERENCES.items()
    )
    rules = ((condition, *automatic(need)) for condition, need in CONDITIONS)
    introduction = INTRODUCTION.format(
        variants=quoted(tuple(dict.fromkeys(variant for tried in PREFERENCES.values() for variant in tried))),
        endpoints="\n".join(endpoints()),
        preferences="\n".join(preferences),
        auto="\n".join(f"| {condition} | {quoted(tuple(tried))} | auto: {why} |" for condition, why, tried in rules),
        tasks="\n".join(tasks()),
    )
    return "\n".join([introduction, *sections(), "## The fleets", *fleets()])


def tasks() -> Iterator[str]:
    """The rows of the task table."""
    for name, task in CATALOG.tasks.items():
        suits = quoted(task.suits) + (f" ({task.specialty} first)" if task.specialty else "")
        yield f"| `task:{name}` | {task.about} | {suits} | {quoted(task.otherwise)} |"


def sections() -> Iterator[str]:
    for section, cases in groupby(CASES, key=lambda case: case.section):
        yield f"### {section}\n"
        yield "| fleet | `model` | request | goes to | because of |\n|---|---|---|---|---|"
        for case in cases:
            yield f"| {case.fleet} | `{case.requested}` | {told(case.need)} | {outcome(case)} |"
        yield ""


def fleets() -> Iterator[str]:
    for name, text in FLEETS.items():
        yield f"\n**{name}**\n\n```yaml\n{text}```"


if __name__ == "__main__":
    print(document())
