"""Parses a model name: `SorskootLLM-v2-13b-instruct` → family, version, size, variant. Pure; nothing is guessed."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Variant = Literal["base", "chat", "instruct", "code", "embedding", "reranker", "guard"]
Specialty = Literal["python", "instruct"]
# The variants that generate no text: one request is one pass, without a KV cache that grows.
POOLING: tuple[Variant, ...] = ("embedding", "reranker")


@dataclass(frozen=True)
class Name:
    """The parts of a model name; None for a part that it does not have.

    `version` is digits and dots without the `v` (`"2"`, `"0.1"`), or the release word `"alpha"` or `"beta"`. `size` is
    in lower case (`"8x7b"`), or the size word (`"mini"`) if there is no number. `slug` is the name without its
    organisation or folder, as a valid model id; `slug` and `family` are empty only if the name has no ASCII letter or
    digit.
    """

    text: str
    family: str
    version: str | None
    size: str | None
    variant: Variant | None
    specialty: Specialty | None
    slug: str


# The start of a name, the family id of the catalogue ({} is what the pattern captured), and the variant of checkpoints
# whose name gives none, with the specialty: None if they differ or it is not confirmed. The first match wins.
_FAMILIES: tuple[tuple[str, str, tuple[Variant, Specialty | None] | Variant | None], ...] = (
    (r"code-?llama", "code-llama", "code"),
    (r"code-?gemma", "codegemma", "code"),
    (r"code-?qwen(?:1\.5)?", "codeqwen", "code"),
    (r"codestral", "codestral", "code"),
    (r"deepseek-?coder", "deepseek-coder", "code"),
    (r"devstral(?:-small)?", "devstral", ("code", "instruct")),
    (r"qwen-?(3)-coder-next", "qwen{}-coder", ("code", "instruct")),
    (r"qwen-?(\d(?:\.\d+)?)-coder", "qwen{}-coder", "code"),
    (r"star-?coder-?(2)", "starcoder{}", "code"),
    (r"star-?coder", "starcoder", "code"),
    (r"wizard-?coder", "wizardcoder", "code"),
    (r"bge-reranker", "bge", "reranker"),
    (r"qwen-?(\d(?:\.\d+)?)-reranker", "qwen{}-reranker", "reranker"),
    (r"gpt-oss-safeguard", "gpt-oss-safeguard", "guard"),
    (r"llama-guard-?(\d)", "llama-guard", "guard"),
    (r"qwen-?(\d(?:\.\d+)?)guard(?:-gen)?", "qwen{}guard", "guard"),
    (r"bert", "bert", "embedding"),
    (r"bge", "bge", "embedding"),
    (r"embedding-?gemma", "embeddinggemma", "embedding"),
    (r"nomic-embed(?:-text)?", "nomic-embed", "embedding"),
    (r"(?:multilingual-)?e5", "e5", "embedding"),
    (r"gte", "gte", "embedding"),
    (r"qwen-?(\d(?:\.\d+)?)-embedding", "qwen{}-embedding", "embedding"),
    (r"orca-?(2)", "orca-{}", "chat"),
    (r"vicuna", "vicuna", "chat"),
    (r"zephyr", "zephyr", "chat"),
    (r"deepseek-r1-distill(?:-(?:llama|qwen))?", "deepseek-r1-distill", "instruct"),
    (r"deepseek-r(1)", "deepseek-r{}", "instruct"),
    (r"deepseek-v(3(?:\.\d)?)", "deepseek-v3", "instruct"),
    (r"deepseek-v(4)", "deepseek-v{}", "instruct"),
    (r"glm-?(4\.\d)", "glm-{}", "instruct"),
    (r"glm-?(5(?:\.\d)?)", "glm-5", "instruct"),
    (r"gpt-oss", "gpt-oss", "instruct"),
    (r"granite-?(4\.\d)(?:-h)?", "granite-4", "instruct"),
    (r"kimi-?k(2(?:\.\d)?)", "kimi-k2", "instruct"),
    (r"magistral(?:-small)?", "magistral", "instruct"),
    (r"minimax-?m(2(?:\.\d)?)", "minimax-m2", "instruct"),
    (r"minimax-?m(3)", "minimax-m{}", "instruct"),
    (r"mistral-small-(4)", "mistral-small", "instruct"),
    (r"(?:nvidia-)?nemotron-(3)", "nemotron-{}", "instruct"),
    (r"(?:nvidia-)?nemotron-nano", "nemotron-nano", "instruct"),
    (r"phi-?(4)", "phi-{}", "instruct"),
    (r"qwen-?(3)-next", "qwen{}-next", "instruct"),
    (r"qwen-?(3(?:\.[568])?)", "qwen{}", "instruct"),
    (r"smol-?lm-?(3)", "smollm{}", "instruct"),
    (r"falcon", "falcon", "base"),
    (r"gpt-?(2)", "gpt-{}", "base"),
    (r"grok-?(1)", "grok-{}", "base"),
    (r"(?:meta-)?llama-?(\d(?:\.\d+)?)", "llama-{}", "base"),
    (r"mistral-small", "mistral-small", None),
    (r"mistral", "mistral", "base"),
    (r"mixtral", "mixtral", "base"),
    (r"ministral-?(3)", "ministral-{}", None),
    (r"olmo-?(3)", "olmo-{}", None),
    (r"solar", "solar", "base"),
    (r"gemma-?(\dn|\d(?:\.\d+)?)", "gemma-{}", None),
    (r"phi-?(\d(?:\.\d+)?)", "phi-{}", None),
    (r"qwen-?(\d(?:\.\d+)?)", "qwen{}", None),
)

_VARIANT_WORDS: dict[str, Variant] = {
    "base": "base",
    "chat": "chat",
    "instruct": "instruct",
    "code": "code",
    "coder": "code",
    "coding": "code",
    "python": "code",
    "embed": "embedding",
    "embedding": "embedding",
    "embeddings": "embedding",
    "reranker": "reranker",
    "guard": "guard",
    # A model that always thinks before it answers follows instructions too.
    "think": "instruct",
    "thinking": "instruct",
    "reasoning": "instruct",
}
# Variants that a name or a family gives whatever other words there are.
_SPECIAL: tuple[Variant, ...] = ("reranker", "guard", "embedding")
# Google's words for its Gemma models; in other names "it" may be the language.
_GEMMA_WORDS: dict[str, Variant] = {"it": "instruct", "pt": "base"}

# Gemma's `e2b` counts only what must be on the GPU.
_SIZE = re.compile(r"(?:\d+x|e)?\d+(?:\.\d+)?[mbt]")
_SIZE_WORDS = frozenset(
    {"micro", "tiny", "mini", "small", "medium", "large", "xl", "lite",
     "nano", "super", "air", "flash", "pro", "scout", "maverick"}
)  # fmt: skip
# A number of experts, as in Llama 4's `17b-16e`: the size before it is that of the parameters that one token uses.
_EXPERTS = re.compile(r"\d+e")
_VERSION = re.compile(r"v?\d+(?:\.\d+)*|alpha|beta")
# Words that change neither family nor variant: formats, quantisations, context lengths, active parameters.
_NEUTRAL = re.compile(
    r"hf|uncased|cased|awq|gptq|gguf|mxfp4|nvfp4|fp(?:8|16|32)|bf16|int[48]|[48]bit|w\d+a\d+|\d+k|a\d+(?:\.\d+)?b"
)


def parse(text: str) -> Name:
    """Parses a hub id, a local path or a bare name; never raises."""
    slug = _slug(text)
    words = [word for word in re.split(r"[-_]+|(?<!\d)\.|\.(?!\d)", slug) if word]
    family, version, default, rest = _family(words)
    variant, specialty = _variant(slug, rest, default)
    if version is None:
        version = next((word.removeprefix("v") for word in rest if _VERSION.fullmatch(word)), None)
    return Name(text, family or slug, version, _size(rest, variant), variant, specialty, slug)


def _slug(text: str) -> str:
    leaf = re.split(r"[/\\]+", text.strip().rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", leaf.lower()).lstrip("._-")[:96].rstrip("._-")


_Default = tuple[Variant | None, Specialty | None]


def _family(words: list[str]) -> tuple[str, str | None, _Default, list[str]]:
    """The family, the version that is part of its name, its default variant, and the remaining words."""
    joined = "-".join(words)
    for pattern, family, default in _FAMILIES:
        if found := re.match(rf"{pattern}(?=-|$)", joined):
            version = found[1] if found.re.groups else None
            rest = [word for word in joined[found.end() :].split("-") if word]
            return family.format(version), version, default if isinstance(default, tuple) else (default, None), rest
    known = next((index for index, word in enumerate(words) if _is_known(word)), len(words))
    return "-".join(words[:known]), None, (None, None), words[known:]


def _is_known(word: str) -> bool:
    return word in _VARIANT_WORDS or _is_neutral(word)


def _is_neutral(word: str) -> bool:
    """Whether the word says nothing about the variant."""
    return word in _SIZE_WORDS or any(pattern.fullmatch(word) for pattern in (_SIZE, _VERSION, _NEUTRAL))


def _variant(slug: str, rest: list[str], defaults: _Default) -> tuple[Variant | None, Specialty | None]:
    meanings = _VARIANT_WORDS | _GEMMA_WORDS if "gemma" in slug else _VARIANT_WORDS
    named = {meanings[word] for word in rest if word in meanings}
    default, specialty = defaults
    for special in _SPECIAL:
        if special in (*named, default):
            return special, None
    if "code" in (*named, default):
        # Both words, chat and instruct, name the same specialty of a code model.
        return "code", "python" if "python" in rest else "instruct" if named & {"chat", "instruct"} else specialty
    for variant in ("chat", "instruct", "base"):
        if variant in named:
            return variant, None
    # An unknown word may name another fine-tuning, to which the family's default variant need not apply.
    return (default if all(map(_is_neutral, rest)) else None), None


def _size(rest: list[str], variant: Variant | None) -> str | None:
    words = _SIZE_WORDS | {"base"} if variant == "embedding" else _SIZE_WORDS
    numbers = (word for word, after in pairwise([*rest, ""]) if _SIZE.fullmatch(word) and not _EXPERTS.fullmatch(after))
    return next(numbers, next((word for word in rest if word in words), None))
