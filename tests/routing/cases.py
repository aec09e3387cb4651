"""The cases that test how the `model` of a request is resolved; printed, they are docs/routing.md.

To regenerate the document: python -m tests.routing.cases > docs/routing.md
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

from service.catalog.names import Variant
from service.protocol.generation import GENERATION, Kind, Requirements
from service.protocol.requests import Message
from service.routing.resolve import PREFERENCES, UNSUPPORTED_BECAUSE, auto_variants
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
    "judges": """\
models:
  - model: llama-guard-3-8b
  - model: gpt-oss-safeguard-20b
    family: gpt-oss
  - model: gpt-oss-20b
  - model: llama-guard-3-1b
    family: bge
  - model: bge-m3
  - model: bge-reranker-v2-m3
  - model: qwen3-reranker-8b
defaults:
  reranker: qwen3-reranker-8b
""",
    "guards": """\
models:
  - model: qwen3guard-gen-8b
  - model: qwen3-reranker-0.6b
""",
    "images": """\
models:
  - model: llama-2-7b-chat
  - model: pebble-chat
  - model: pebble-instruct
    vision: true
aliases:
  gpt-4o: pebble-chat
  gpt-4o-mini: llama-2-7b-chat
""",
    "shared": """\
models:
  - {model: llama-2-7b-chat, aliases: [support], weight: 90}
  - {model: llama-2-13b-chat, aliases: [support], weight: 10}
  - {model: llama-2-7b, aliases: [support], weight: 0}
""",
    "templated": """\
models:
  - model: llama-2-7b
    chat_template: ./custom.jinja
""",
    "tuned": """\
models:
  - model: llama-2-13b-chat
    adapters:
      - {id: legal-tone, path: ./adapters/legal-tone, family: legal}
      - {id: reports, path: ./adapters/reports, variant: instruct, aliases: [writer]}
defaults:
  chat: legal-tone
""",
}


@dataclass(frozen=True)
class ExpectedError:
    """An error response, and the served names that its message suggests."""

    status: int
    code: str
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One request, and how it must be resolved: to a model with a reason, or to an error."""

    section: str
    fleet: str
    requested: str
    requirements: Requirements
    expected: str | ExpectedError
    reason: str = ""


CHAT = Requirements("chat")
MULTI_TURN = Requirements("chat", (Message("user"),) * 3)
CODE_CHAT = Requirements("chat", contents=("```",))
TOOL_CHAT = Requirements("chat", tools=True)
IMAGES = Requirements("chat", vision=True)
COMPLETION = Requirements("completion")
CODE_COMPLETION = Requirements("completion", contents=("```",))
INFILL = Requirements("infill")
EMBEDDING = Requirements("embedding")
RERANK = Requirements("rerank")
TOKENS = Requirements("tokens")


def unsupported(*suggestions: str) -> ExpectedError:
    """The model is served but does not support the request."""
    return ExpectedError(400, "unsupported_for_model", suggestions)


def unknown(*suggestions: str) -> ExpectedError:
    """No model is served under this name."""
    return ExpectedError(404, "model_not_found", suggestions)


ID = "Id of a model or an adapter"
ALIAS = "Alias"
FAMILY = "Family, or family and size"
VARIANT = "Variant"
TASK = "Task"
AUTO = "The word `auto`"
UNKNOWN = "Anything else"

CASES: tuple[Case, ...] = (
    # An id is never substituted.
    Case(ID, "pebble", "pebble-chat", CHAT, "pebble-chat", "id"),
    Case(ID, "pebble", "pebble-instruct", MULTI_TURN, "pebble-instruct", "id"),
    Case(ID, "pebble", "pebble-base", COMPLETION, "pebble-base", "id"),
    Case(ID, "pebble", "pebble-chat", COMPLETION, "pebble-chat", "id"),
    Case(ID, "pebble", "pebble-code", INFILL, "pebble-code", "id"),
    Case(ID, "llama", "llama-2-7b-chat", CHAT, "llama-2-7b-chat", "id"),
    Case(ID, "llama", "legal-tone", CHAT, "legal-tone", "adapter of llama-2-13b-chat"),
    Case(ID, "llama", "legal-tone", COMPLETION, "legal-tone", "adapter of llama-2-13b-chat"),
    Case(ID, "tuned", "reports", CHAT, "reports", "adapter of llama-2-13b-chat"),
    Case(ID, "mixed", "sorskootllm-v2-13b-instruct", CHAT, "sorskootllm-v2-13b-instruct", "id"),
    Case(ID, "mixed", "bge-small-en-v1.5", EMBEDDING, "bge-small-en-v1.5", "id"),
    Case(ID, "templated", "llama-2-7b", CHAT, "llama-2-7b", "id"),
    Case(ID, "pebble", "pebble-base", CHAT, unsupported("pebble-chat", "pebble-instruct")),
    Case(ID, "pebble", "pebble-code", CHAT, unsupported("pebble-chat", "pebble-instruct")),
    Case(ID, "pebble", "pebble-chat", INFILL, unsupported("pebble-code")),
    Case(ID, "pebble", "pebble-chat", EMBEDDING, unsupported()),
    Case(ID, "llama", "llama-2-13b", CHAT, unsupported("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(ID, "llama", "legal-tone", INFILL, unsupported()),
    Case(ID, "code", "code-llama-7b", CHAT, unsupported("code-llama-7b-instruct")),
    Case(ID, "code", "code-llama-7b-python", INFILL, unsupported("code-llama-7b", "code-llama-7b-instruct")),
    Case(ID, "mixed", "code-llama-34b", INFILL, unsupported("code-llama-13b-instruct")),
    Case(ID, "mixed", "code-llama-34b", CHAT, unsupported("code-llama-13b-instruct")),
    Case(ID, "mixed", "llama-2-7b-chat", EMBEDDING, unsupported("bge-small-en-v1.5")),
    Case(ID, "mixed", "bge-small-en-v1.5", CHAT,
         unsupported("llama-2-7b-chat", "sorskootllm-v2-13b-instruct", "code-llama-13b-instruct")),
    Case(ID, "mixed", "bge-small-en-v1.5", COMPLETION,
         unsupported("code-llama-13b-instruct", "code-llama-34b", "sorskootllm-v2-13b-instruct")),
    # A guard answers whoever asks for it; a reranker answers no conversation, and no other model reranks.
    Case(ID, "judges", "llama-guard-3-8b", CHAT, "llama-guard-3-8b", "id"),
    Case(ID, "judges", "bge-reranker-v2-m3", RERANK, "bge-reranker-v2-m3", "id"),
    Case(ID, "judges", "bge-reranker-v2-m3", CHAT, unsupported("gpt-oss-20b")),
    Case(ID, "judges", "bge-reranker-v2-m3", EMBEDDING, unsupported("bge-m3")),
    Case(ID, "judges", "gpt-oss-20b", RERANK, unsupported("bge-reranker-v2-m3", "qwen3-reranker-8b")),
    Case(ID, "guards", "qwen3-reranker-0.6b", COMPLETION, unsupported()),
    # Every model has a tokenizer.
    Case(ID, "judges", "bge-reranker-v2-m3", TOKENS, "bge-reranker-v2-m3", "id"),
    # Only models that see images get any, whatever else they can do.
    Case(ID, "images", "pebble-instruct", IMAGES, "pebble-instruct", "id"),
    Case(ID, "images", "pebble-chat", IMAGES, unsupported("pebble-instruct")),
    Case(ID, "images", "llama-2-7b-chat", IMAGES, unsupported("pebble-instruct")),
    Case(ID, "pebble", "pebble-chat", IMAGES, unsupported()),
    # An alias stands for one id, and supports the same requests; only images may go to another model of that family.
    Case(ALIAS, "pebble", "gpt-4o-mini", CHAT, "pebble-chat", "alias of pebble-chat"),
    Case(ALIAS, "pebble", "claude-haiku", MULTI_TURN, "pebble-chat", "alias of pebble-chat"),
    Case(ALIAS, "tuned", "writer", CHAT, "reports", "alias of reports"),
    Case(ALIAS, "llama", "support-bot", CHAT, "llama-2-13b-chat", "alias of llama-2-13b-chat"),
    Case(ALIAS, "llama", "legal", CHAT, "legal-tone", "alias of legal-tone"),
    Case(ALIAS, "llama", "writer", COMPLETION, "llama-2-7b", "alias of llama-2-7b"),
    Case(ALIAS, "defaults", "llama-2-13b", CHAT, "llama-2-70b-chat", "alias of llama-2-70b-chat"),
    Case(ALIAS, "llama", "writer", CHAT, unsupported("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(ALIAS, "pebble", "gpt-4o-mini", INFILL, unsupported("pebble-code")),
    Case(ALIAS, "images", "gpt-4o", CHAT, "pebble-chat", "alias of pebble-chat"),
    Case(ALIAS, "images", "gpt-4o", IMAGES, "pebble-instruct",
         "alias of pebble-chat, pebble-instruct of its family sees images"),
    Case(ALIAS, "images", "gpt-4o-mini", IMAGES, unsupported("pebble-instruct")),
    # A family leaves the variant to the request, and the size to the order in the fleet file.
    Case(ALIAS, "shared", "support", CHAT, "llama-2-7b-chat", "alias of llama-2-7b-chat, weight 90 of 100"),
    Case(ALIAS, "shared", "support", COMPLETION, "llama-2-7b-chat", "alias of llama-2-7b-chat, weight 90 of 100"),
    Case(ALIAS, "shared", "support", IMAGES, unsupported()),
    Case(FAMILY, "pebble", "pebble", CHAT, "pebble-chat", "family pebble, chat fits chat"),
    Case(FAMILY, "pebble", "pebble", COMPLETION, "pebble-base", "family pebble, base fits completion"),
    Case(FAMILY, "pebble", "pebble", INFILL, "pebble-code", "family pebble, code fits infill"),
    Case(FAMILY, "pebble", "pebble", EMBEDDING, unsupported()),
    Case(FAMILY, "llama", "llama-2", CHAT, "llama-2-13b-chat", "family llama-2, chat fits chat"),
    Case(FAMILY, "llama", "llama-2", COMPLETION, "llama-2-7b", "family llama-2, base fits completion"),
    Case(FAMILY, "llama", "llama-2", INFILL, unsupported()),
    # A family and a size may be the id of a base model too, and an id comes first.
    Case(FAMILY, "llama", "llama-2-7b", COMPLETION, "llama-2-7b", "id"),
    Case(FAMILY, "tuned", "llama-2", CHAT, "llama-2-13b-chat", "family llama-2, chat fits chat"),
    Case(FAMILY, "tuned", "legal", CHAT, "legal-tone", "family legal, chat fits chat"),
    Case(FAMILY, "tuned", "legal-13b", CHAT, "legal-tone", "family legal-13b, chat fits chat"),
    Case(FAMILY, "llama", "llama-2-7b", CHAT, unsupported("llama-2-13b-chat", "llama-2-7b-chat")),
    Case(FAMILY, "mixed", "llama-2-7b", CHAT, "llama-2-7b-chat", "family llama-2-7b, chat fits chat"),
    Case(FAMILY, "mixed", "llama-2-7b", COMPLETION, "llama-2-7b-chat", "family llama-2-7b, chat fits completion"),
    Case(FAMILY, "mixed", "sorskootllm-13b", CHAT, "sorskootllm-v2-13b-instruct",
         "family sorskootllm-13b, instruct fits chat"),
    Case(FAMILY, "mixed", "bge", EMBEDDING, "bge-small-en-v1.5", "family bge, embedding fits embedding"),
    Case(FAMILY, "mixed", "code-llama", CHAT, "code-llama-13b-instruct", "family code-llama, code fits chat"),
    Case(FAMILY, "mixed", "code-llama-13b", INFILL, "code-llama-13b-instruct",
         "family code-llama-13b, code fits infill"),
    Case(FAMILY, "code", "code-llama", CHAT, "code-llama-7b-instruct", "family code-llama, code fits chat"),
    Case(FAMILY, "code", "code-llama", COMPLETION, "code-llama-7b", "family code-llama, code fits completion"),
    Case(FAMILY, "defaults", "llama-2", CHAT, "llama-2-70b-chat", "family llama-2, chat fits chat"),
    Case(FAMILY, "defaults", "code-llama", INFILL, "code-llama-7b", "family code-llama, code fits infill"),
    Case(FAMILY, "images", "pebble", IMAGES, "pebble-instruct", "family pebble, instruct fits chat"),
    Case(FAMILY, "images", "llama-2", IMAGES, unsupported("pebble-instruct")),
    Case(FAMILY, "templated", "llama-2", CHAT, "llama-2-7b", "family llama-2, base fits chat"),
    # A guard serves a family's name only where the family has nothing else.
    Case(FAMILY, "judges", "gpt-oss", CHAT, "gpt-oss-20b", "family gpt-oss, instruct fits chat"),
    Case(FAMILY, "judges", "bge", CHAT, unsupported("gpt-oss-20b")),
    Case(FAMILY, "judges", "llama-guard", CHAT, "llama-guard-3-8b", "family llama-guard, guard fits chat"),
    Case(FAMILY, "judges", "bge", RERANK, "bge-reranker-v2-m3", "family bge, reranker fits rerank"),
    Case(FAMILY, "pebble", "pebble", TOKENS, "pebble-base", "family pebble, base fits tokens"),
    Case(FAMILY, "judges", "bge", EMBEDDING, "bge-m3", "family bge, embedding fits embedding"),
    # A variant is resolved to its default in the fleet file, or else to the first model that supports the request.
    Case(VARIANT, "pebble", "chat", CHAT, "pebble-chat", "variant chat"),
    Case(VARIANT, "pebble", "instruct", CHAT, "pebble-instruct", "variant instruct"),
    Case(VARIANT, "pebble", "code", COMPLETION, "pebble-code", "variant code"),
    Case(VARIANT, "pebble", "base", COMPLETION, "pebble-base", "variant base"),
    Case(VARIANT, "pebble", "base", CHAT, unsupported("pebble-chat", "pebble-instruct")),
    Case(VARIANT, "pebble", "embedding", EMBEDDING, unknown()),
    Case(VARIANT, "mixed", "embedding", EMBEDDING, "bge-small-en-v1.5", "variant embedding"),
    Case(VARIANT, "mixed", "embedding", CHAT,
         unsupported("llama-2-7b-chat", "sorskootllm-v2-13b-instruct", "code-llama-13b-instruct")),
    Case(VARIANT, "mixed", "base", COMPLETION, unknown()),
    Case(VARIANT, "llama", "chat", CHAT, "llama-2-13b-chat", "variant chat"),
    Case(VARIANT, "tuned", "chat", CHAT, "legal-tone", "variant chat"),
    Case(VARIANT, "tuned", "instruct", CHAT, "reports", "variant instruct"),
    Case(VARIANT, "defaults", "chat", CHAT, "llama-2-7b-chat", "variant chat"),
    Case(VARIANT, "defaults", "base", COMPLETION, "llama-2-7b", "variant base"),
    Case(VARIANT, "defaults", "code", INFILL, "code-llama-7b", "variant code"),
    Case(VARIANT, "defaults", "code", CHAT, "code-llama-7b-instruct", "variant code"),
    Case(VARIANT, "code", "code", CHAT, "code-llama-7b-instruct", "variant code"),
    Case(VARIANT, "judges", "guard", CHAT, "llama-guard-3-8b", "variant guard"),
    Case(VARIANT, "judges", "reranker", RERANK, "qwen3-reranker-8b", "variant reranker"),
    Case(VARIANT, "judges", "reranker", CHAT, unsupported("gpt-oss-20b")),
    Case(VARIANT, "pebble", "reranker", RERANK, unknown()),
    Case(VARIANT, "pebble", "guard", CHAT, unknown()),
    Case(VARIANT, "images", "chat", IMAGES, unsupported("pebble-instruct")),
    # A task stands for the variants in models/tasks.yaml, best first.
    Case(TASK, "pebble", "task:summarization", CHAT, "pebble-instruct", "task summarization"),
    Case(TASK, "tuned", "task:summarization", CHAT, "reports", "task summarization"),
    Case(TASK, "pebble", "task:summarization", COMPLETION, "pebble-instruct", "task summarization"),
    Case(TASK, "pebble", "task:generation", COMPLETION, "pebble-base", "task generation"),
    Case(TASK, "pebble", "task:generation", CHAT, "pebble-instruct", "task generation"),
    Case(TASK, "pebble", "task:question-answering", CHAT, "pebble-instruct", "task question-answering"),
    Case(TASK, "pebble", "task:understanding", CHAT, "pebble-instruct", "task understanding"),
    Case(TASK, "llama", "task:understanding", COMPLETION, "llama-2-7b", "task understanding"),
    Case(TASK, "llama", "task:understanding", CHAT, "llama-2-13b-chat", "task understanding"),
    Case(TASK, "pebble", "task:extraction", CHAT, "pebble-instruct", "task extraction"),
    Case(TASK, "pebble", "task:classification", CHAT, "pebble-instruct", "task classification"),
    Case(TASK, "pebble", "task:sentiment", CHAT, "pebble-instruct", "task sentiment"),
    Case(TASK, "pebble", "task:ner", CHAT, "pebble-instruct", "task ner"),
    Case(TASK, "pebble", "task:dialogue", MULTI_TURN, "pebble-chat", "task dialogue"),
    Case(TASK, "pebble", "task:support", CHAT, "pebble-chat", "task support"),
    Case(TASK, "pebble", "task:social", CHAT, "pebble-chat", "task social"),
    Case(TASK, "pebble", "task:code-completion", INFILL, "pebble-code", "task code-completion"),
    Case(TASK, "pebble", "task:code-completion", COMPLETION, "pebble-code", "task code-completion"),
    Case(TASK, "pebble", "task:code-chat", CHAT, "pebble-instruct", "task code-chat"),
    Case(TASK, "code", "task:code-chat", CHAT, "code-llama-7b-instruct", "task code-chat"),
    Case(TASK, "code", "task:code-completion", COMPLETION, "code-llama-7b", "task code-completion"),
    # Also where other code models support the request too, and are first in the fleet file or its default.
    Case(TASK, "code", "task:code-refactoring", COMPLETION, "code-llama-7b-instruct", "task code-refactoring"),
    Case(TASK, "code", "task:code-explanation", CHAT, "code-llama-7b-instruct", "task code-explanation"),
    Case(TASK, "defaults", "task:code-explanation", COMPLETION, "code-llama-7b-instruct", "task code-explanation"),
    Case(TASK, "pebble", "task:code-refactoring", COMPLETION, "pebble-code", "task code-refactoring"),
    Case(TASK, "llama", "task:ner", CHAT, "llama-2-13b-chat", "task ner"),
    Case(TASK, "defaults", "task:support", CHAT, "llama-2-7b-chat", "task support"),
    Case(TASK, "defaults", "task:code-completion", INFILL, "code-llama-7b", "task code-completion"),
    Case(TASK, "pebble", "task:code-completion", CHAT, unsupported("pebble-chat", "pebble-instruct")),
    Case(TASK, "code", "task:summarization", CHAT, unknown()),
    Case(TASK, "pebble", "task:translation", CHAT, unknown()),
    Case(TASK, "images", "task:dialogue", IMAGES, "pebble-instruct", "task dialogue"),
    # `auto` goes by the contents of the request.
    Case(AUTO, "pebble", "auto", CHAT, "pebble-instruct", "auto: a single instruction"),
    Case(AUTO, "pebble", "auto", MULTI_TURN, "pebble-chat", "auto: several turns"),
    Case(AUTO, "pebble", "auto", TOOL_CHAT, "pebble-instruct", "auto: tools"),
    Case(AUTO, "pebble", "auto", CODE_CHAT, "pebble-instruct", "auto: code in the conversation"),
    Case(AUTO, "pebble", "auto", COMPLETION, "pebble-base", "auto: plain text"),
    Case(AUTO, "pebble", "auto", CODE_COMPLETION, "pebble-code", "auto: code in the prompt"),
    Case(AUTO, "pebble", "auto", INFILL, "pebble-code", "auto: a suffix"),
    Case(AUTO, "pebble", "auto", EMBEDDING, unknown()),
    Case(AUTO, "mixed", "auto", CHAT, "sorskootllm-v2-13b-instruct", "auto: a single instruction"),
    Case(AUTO, "mixed", "auto", CODE_CHAT, "code-llama-13b-instruct", "auto: code in the conversation"),
    Case(AUTO, "mixed", "auto", INFILL, "code-llama-13b-instruct", "auto: a suffix"),
    Case(AUTO, "mixed", "auto", EMBEDDING, "bge-small-en-v1.5", "auto: embeddings"),
    Case(AUTO, "defaults", "auto", MULTI_TURN, "llama-2-7b-chat", "auto: several turns"),
    Case(AUTO, "code", "auto", CHAT, "code-llama-7b-instruct", "auto: a single instruction"),
    Case(AUTO, "llama", "auto", CODE_COMPLETION, "llama-2-7b", "auto: code in the prompt"),
    Case(AUTO, "llama", "auto", INFILL, unsupported()),
    Case(AUTO, "judges", "auto", CHAT, "gpt-oss-20b", "auto: a single instruction"),
    Case(AUTO, "judges", "auto", RERANK, "qwen3-reranker-8b", "auto: reranking"),
    Case(AUTO, "pebble", "auto", TOKENS, "pebble-base", "auto: token ids"),
    Case(AUTO, "guards", "auto", CHAT, unknown()),
    Case(AUTO, "guards", "auto", MULTI_TURN, unknown()),
    Case(AUTO, "images", "auto", IMAGES, "pebble-instruct", "auto: a single instruction"),
    Case(AUTO, "templated", "auto", CHAT, "llama-2-7b", "auto: a single instruction"),
    Case(AUTO, "embeddings", "auto", CHAT, unknown()),
    # Unknown names are never guessed.
    Case(UNKNOWN, "pebble", "pebble-chta", CHAT, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(UNKNOWN, "pebble", "Pebble-Chat", CHAT, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(UNKNOWN, "pebble", "gpt-4o", CHAT, unknown("gpt-4o-mini")),
    Case(UNKNOWN, "pebble", "llama-2-7b-chat", CHAT, unknown()),
    Case(UNKNOWN, "pebble", "pebble-chat ", CHAT, unknown("pebble-chat", "pebble-code", "pebble-base")),
    Case(UNKNOWN, "llama", "meta-llama/Llama-2-7b-chat-hf", CHAT,
         unknown("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-7b")),
    Case(UNKNOWN, "llama", "llama-2-70b", CHAT, unknown("llama-2-7b", "llama-2-13b", "llama-2")),
    Case(UNKNOWN, "llama", "legal-tome", CHAT, unknown("legal-tone", "legal")),
    Case(UNKNOWN, "mixed", "code-lama", CHAT, unknown("code-llama", "code-llama-34b", "code-llama-13b")),
    Case(UNKNOWN, "mixed", "sorskoot", CHAT, unknown("sorskootllm", "sorskootllm-13b")),
    Case(UNKNOWN, "embeddings", "bge-large", EMBEDDING, unknown("bge-small", "bge")),
    Case(UNKNOWN, "pebble", "quantum", CHAT, unknown()),
)  # fmt: skip

INTRODUCTION = """\
# Routing

<!-- Generated by `python -m tests.routing.cases > docs/routing.md` from the cases that test the routing. -->

The `model` field of a request selects the model that serves it. It may be the id of one model, or leave the choice to
Roundhouse: a family, a variant, a task, or `auto`. The response reports which model was chosen, and why.

## Rules

The first rule that matches applies.

| `model` is | the request is served by |
|---|---|
| the id of a served model or an adapter | that model, never another one |
| an alias | the model or adapter that the fleet file sets for the alias; one of several, by their [weights](#weights) |
| a family, or a family and a size: `llama-2`, `llama-2-13b` | the model of that family that fits best |
| a variant: {variants} | the default for that variant in the fleet file, or else the first that fits |
| `task:` and a task: `task:summarization` | the first model that fits, by the variants listed under [Tasks](#tasks) |
| `auto` | the first model that fits, by the variants listed under [`auto`](#auto) |
| anything else | none: `404 model_not_found`, with the most similar names, or some of those served if none is similar |

A model fits if it [supports the request](#what-a-request-requires-of-a-model). Names are compared exactly:
`Pebble-Chat` is not `pebble-chat`, and the name of a repository on the Hugging Face Hub is not an id.

A model is never substituted silently. If `model` is an id, an adapter or an alias, the request is served by that model
or not at all, with two exceptions, which the reason tells: a request with images to an alias of a model that sees none
goes to one of the same family that does, and the fleet file may name [fallbacks](#fallbacks). If no such model
supports the request, the response is `400 unsupported_for_model`, and its message suggests up to three served models
that do: of the same family if there are any, otherwise of any family.

An adapter is found by its id and its aliases, and by a family or variant only where the fleet file gives it one of
its own.

A guard judges conversations instead of answering them. So it serves only requests that ask for it: by id, by alias, by
the variant `guard`, or by a family of which nothing but guards is served.

## What a request requires of a model

This depends on the endpoint alone:

{endpoints}

| request | not supported by a model that | variants tried where `model` leaves them open, best first |
|---|---|---|
{preferences}

Only models that support the request are considered. Conversations require a chat template; for a model without one the
fleet file can set `chat_template`. Conversations with images require a model that sees them: the catalogue says which
do, and `vision` in the fleet file says so of a model that is not in it. [Images](clients.md#images) has the rest.

Where several models have the same variant, the fleet file's `defaults` decide if `model` is a variant, a task or
`auto`; otherwise, and always for families, the first one in the fleet file is chosen. So list the preferred size first.

## `auto`

The first row that matches applies. Only the request itself is inspected; no model is called to classify it.

| request | variants tried, best first | reason reported |
|---|---|---|
{auto}

Code is a Markdown code fence, or a line that begins like one of a program (`def `, `class `, `import `, `#include` …).

## Tasks

`task:NAME` tries the variants that suit the task, best first, and then others that can do it. The table is
`models/tasks.yaml`; an entry added there is a new task. Where the table says so, code models that are tuned to follow
instructions come first.

| `model` | the task | suitable variants | otherwise |
|---|---|---|---|
{tasks}

## Weights

Several models, or adapters, may have one alias, each with a `weight`:

```yaml
models:
  - {{model: llama-2-7b-chat, aliases: [support], weight: 95}}
  - {{model: ./llama-2-7b-chat-v2, id: llama-2-7b-chat-v2, aliases: [support], weight: 5}}
```

- **A conversation stays on one model**, and finds its prefix cache there: which one follows from the client's session,
  or from how the conversation begins ([reliability.md](reliability.md#load-balancing)). While a weight grows, what it
  has got stays there.
- **What has no conversation**, such as texts to embed, goes by tenant: all of a tenant's to one model, for vectors of
  two models do not compare.
- Models that do not support the request, or that its key is not for, are left out, and the others have its parts.
- A weight of 0 gets nothing by the alias, and everything by the model's own id. The weights under an alias may not all
  be 0, and an alias of several models without weights is a mistake. `weight` may change while the service runs;
  [upgrades.md](upgrades.md) moves it in steps.

## Fallbacks

```yaml
models:
  - {{model: llama-2-70b-chat, aliases: [support], fallback: [llama-2-13b-chat, llama-2-7b-chat]}}
```

A fallback answers where the model that a request was resolved to cannot. The reason is one of these:

| reason | the model |
|---|---|
| `unavailable` | has no replica that can be used: all have failed, are starting or cannot be reached; \
or its engine has failed at this request before any of an answer, and so has the one that it was tried again at |
| `queue_full` | has a full queue, or one in which the request would wait, or has waited, longer than it may |
| `activation_timeout` | was scaled to zero, and has not started within `timeouts: {{activation: …}}` |

- **By name only**: a request that asks for a model by its id is never answered by another one, unless it has the
  header `x-roundhouse-fallback: allow`. `x-roundhouse-fallback: deny` says of any request that it is not.
- **Adapters** have fallbacks of their own, and may be named as some: `fallback: [my-tone-v1]` of an adapter `my-tone`,
  which answers while that could not be loaded too. They have none of their base's, for that cannot do what they can.
- **What fits**: a fallback supports the request (its endpoint, images), calls tools where the model does, and has the
  context for it by an estimate. One that turns out to be too short is passed over. The request's key must be for it.
  It has all guardrails of the model, or the fleet file is refused.
- **In order**: first those that the model lists, then those that they list. None may lead back to where it began. If
  none can answer either, the client gets the first model's error.
- **Once**: from the moment that an engine's answer has begun the request is nobody else's. A stream that had waited
  for so long that it was opened already gets a comment: `: llama-2-13b-chat answers, because of fallback: queue_full
  of llama-2-70b-chat, …`.
- **Told**: `x-roundhouse-model` and the body's `model` name who answered, `x-roundhouse-route-reason` says `fallback:
  queue_full of llama-2-70b-chat, alias of …`. The log line has `fallback` and `fallback_of`, the trace too, and
  `roundhouse_fallbacks_total` counts them by both models and reason.
- **Charged once**: the request counts once against its tenant's budgets, with the tokens of the answer that it got.

## Which model served a request

Every successful response has these headers, streamed or not; its `model` field, if it has one, repeats the first.

| header | value |
|---|---|
| `x-roundhouse-model` | the id of the model or adapter |
| `x-roundhouse-replica` | the replica of that model |
| `x-roundhouse-route-reason` | the rule that applied, as in the tables below, or why it is a [fallback](#fallbacks) |

To resolve a `model` without running a request, send the request to `/v1/route`, with its path as `endpoint`. All fields
but `model` are optional:

```console
$ curl localhost:3000/v1/route -H 'content-type: application/json' \\
    -d '{{"endpoint": "/v1/completions", "model": "pebble", "prompt": "def f(", "suffix": "return x"}}'
```

`fallbacks` are the models that may answer in its place. `roundhouse route` does the same from the fleet file alone,
without a running service, with the weights of an alias:

```console
$ roundhouse route pebble --endpoint /v1/completions --suffix
pebble -> pebble-code (code), because of family pebble, code fits infill
```

## All cases

Each row is a test. The [fleet files](#fleet-files) follow at the end.
"""

CONDITIONS: tuple[tuple[str, Requirements], ...] = (
    ("`/v1/embeddings`", EMBEDDING),
    ("`/rerank` and `/score`", RERANK),
    ("`/tokenize` of a text and `/detokenize`", TOKENS),
    ("a completion with `suffix`", INFILL),
    ("a completion with code in its prompt", CODE_COMPLETION),
    ("any other completion", COMPLETION),
    ("a conversation with `tools`", TOOL_CHAT),
    ("a conversation with code", CODE_CHAT),
    ("a conversation with more than one user message", MULTI_TURN),
    ("any other conversation", CHAT),
)
KINDS: dict[Kind, str] = {
    "chat": "a conversation",
    "completion": "a completion",
    "infill": "a completion with `suffix`",
    "embedding": "embeddings",
    "rerank": "reranking",
    "tokens": "token ids or their text",
}


def describe(requirements: Requirements) -> str:
    """The request in words."""
    words = KINDS[requirements.kind]
    if requirements.turns > 1:
        words += f", {requirements.turns} turns"
    if requirements.code:
        words += ", with code"
    if requirements.vision:
        words += ", with images"
    return words + (", with tools" if requirements.tools else "")


def quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def outcome(case: Case) -> str:
    """The last two columns of a case."""
    if isinstance(case.expected, str):
        return f"`{case.expected}` | {case.reason}"
    suggestions = f"; suggests {quoted(case.expected.suggestions)}" if case.expected.suggestions else ""
    return f"**{case.expected.status}** `{case.expected.code}`{suggestions} | "


def endpoints() -> Iterator[str]:
    completion = "a completion, or with `suffix` a fill-in-the-middle completion"
    others = {
        "/v1/completions": completion, "/v1/embeddings": "embeddings", "/rerank": "reranking", "/score": "reranking",
        "/tokenize": "with `messages` a conversation, otherwise the token ids of a text",
        "/detokenize": "the text of token ids",
    }  # fmt: skip
    yield f"- {quoted(tuple(one.path for one in GENERATION if one.path not in others))}: a conversation."
    yield from (f"- `{path}`: {words}." for path, words in others.items())


def document() -> str:
    """All of docs/routing.md."""
    lacking = {kind: because.partition(": it ")[2] for kind, because in UNSUPPORTED_BECAUSE.items()}
    preferences = (
        f"| {KINDS[kind]} | {lacking.get(kind, '–')} | {quoted(tuple(variants))} |"
        for kind, variants in PREFERENCES.items()
    )
    rules = ((condition, *auto_variants(requirements)) for condition, requirements in CONDITIONS)
    introduction = INTRODUCTION.format(
        variants=quoted(get_args(Variant)),
        endpoints="\n".join(endpoints()),
        preferences="\n".join(preferences),
        auto="\n".join(f"| {condition} | {quoted(tried)} | auto: {reason} |" for condition, reason, tried in rules),
        tasks="\n".join(tasks()),
    )
    return "\n".join([introduction, *sections(), "## Fleet files", *fleets()])


def tasks() -> Iterator[str]:
    """The rows of the task table."""
    for name, task in CATALOG.tasks.items():
        suits = quoted(task.suits) + (f" ({task.specialty} first)" if task.specialty else "")
        yield f"| `task:{name}` | {task.about} | {suits} | {quoted(task.otherwise)} |"


def sections() -> Iterator[str]:
    for section, cases in groupby(CASES, key=lambda case: case.section):
        yield f"### {section}\n"
        yield "| fleet | `model` | request | served by | reason |\n|---|---|---|---|---|"
        for case in cases:
            yield f"| {case.fleet} | `{case.requested}` | {describe(case.requirements)} | {outcome(case)} |"
        yield ""


def fleets() -> Iterator[str]:
    for name, text in FLEETS.items():
        yield f"\n**{name}**\n\n```yaml\n{text}```"


if __name__ == "__main__":
    print(document())
