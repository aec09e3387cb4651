"""Reads a model name: `SorskootLLM-v2-13b-instruct` → family, version, size, variant. Nothing is guessed."""

import re
from dataclasses import dataclass
from typing import Literal

Variant = Literal["base", "chat", "instruct", "code", "embedding"]
Specialty = Literal["python", "instruct"]


@dataclass(frozen=True)
class Name:
    """What a model name says; None where it says nothing.

    `version` is digits and dots without the `v` (`"2"`, `"0.1"`), or the release word `"alpha"` or `"beta"`. `size` is
    lower case as written (`"8x7b"`), or the size word (`"mini"`) where there is no number. `slug` is the name without
    its organisation or folder as a valid model id; `slug` and `family` are empty only when the name holds no ASCII
    letter or digit.
    """

    text: str
    family: str
    version: str | None
    size: str | None
    variant: Variant | None
    specialty: Specialty | None
    slug: str


# How a name starts, the house spelling of that family ({} is what the pattern captured), and what the family's
# checkpoints are when the name does not say: None where they differ or nobody has confirmed it. First match wins.
_ORIGINS: tuple[tuple[str, str, Variant | None], ...] = (
    (r"code-?llama", "code-llama", "code"),
    (r"code-?gemma", "codegemma", "code"),
    (r"code-?qwen(?:1\.5)?", "codeqwen", "code"),
    (r"codestral", "codestral", "code"),
    (r"deepseek-?coder", "deepseek-coder", "code"),
    (r"qwen-?(\d(?:\.\d+)?)-coder", "qwen{}-coder", "code"),
    (r"star-?coder-?(2)", "starcoder{}", "code"),
    (r"star-?coder", "starcoder", "code"),
    (r"wizard-?coder", "wizardcoder", "code"),
    (r"bert", "bert", "embedding"),
    (r"bge", "bge", "embedding"),
    (r"(?:multilingual-)?e5", "e5", "embedding"),
    (r"gte", "gte", "embedding"),
    (r"qwen-?(\d(?:\.\d+)?)-embedding", "qwen{}-embedding", "embedding"),
    (r"orca-?(2)", "orca-{}", "chat"),
    (r"vicuna", "vicuna", "chat"),
    (r"zephyr", "zephyr", "chat"),
    (r"deepseek-r1-distill(?:-(?:llama|qwen))?", "deepseek-r1-distill", "instruct"),
    (r"gpt-oss", "gpt-oss", "instruct"),
    (r"phi-?(4)", "phi-{}", "instruct"),
    (r"qwen-?(3)", "qwen{}", "instruct"),
    (r"falcon", "falcon", "base"),
    (r"gpt-?(2)", "gpt-{}", "base"),
    (r"grok-?(1)", "grok-{}", "base"),
    (r"(?:meta-)?llama-?(\d(?:\.\d+)?)", "llama-{}", "base"),
    (r"mistral-small", "mistral-small", None),
    (r"mistral", "mistral", "base"),
    (r"mixtral", "mixtral", "base"),
    (r"solar", "solar", "base"),
    (r"gemma-?(\d(?:\.\d+)?)", "gemma-{}", None),
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
}
# Google's own words, read as such only in names with "gemma": elsewhere "it" may be a language.
_GEMMA_WORDS: dict[str, Variant] = {"it": "instruct", "pt": "base"}

_SIZE = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[mbt]")
_SIZE_WORDS = frozenset({"tiny", "mini", "small", "medium", "large", "xl", "lite"})
_VERSION = re.compile(r"v?\d+(?:\.\d+)*|alpha|beta")
# What changes neither the family nor the fine-tuning: formats, quantisations, context lengths, active parameters.
_NEUTRAL = re.compile(
    r"hf|uncased|cased|awq|gptq|gguf|mxfp4|nvfp4|fp(?:8|16|32)|bf16|int[48]|[48]bit|w\d+a\d+|\d+k|a\d+(?:\.\d+)?b"
)


def parse(text: str) -> Name:
    """Reads a hub id, a local path or a bare name; never raises."""
    slug = _slug(text)
    words = [word for word in re.split(r"[-_]+|(?<!\d)\.|\.(?!\d)", slug) if word]
    family, version, plain, rest = _origin(words)
    variant, specialty = _variant(slug, rest, plain)
    if version is None:
        version = next((word.removeprefix("v") for word in rest if _VERSION.fullmatch(word)), None)
    return Name(text, family or slug, version, _size(rest, variant), variant, specialty, slug)


def _slug(text: str) -> str:
    leaf = re.split(r"[/\\]+", text.strip().rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", leaf.lower()).lstrip("._-")[:96].rstrip("._-")


def _origin(words: list[str]) -> tuple[str, str | None, Variant | None, list[str]]:
    """The family, the version that is part of its name, its plain variant, and the words after it."""
    joined = "-".join(words)
    for pattern, family, plain in _ORIGINS:
        if found := re.match(rf"{pattern}(?=-|$)", joined):
            version = found[1] if found.re.groups else None
            return family.format(version), version, plain, [word for word in joined[found.end() :].split("-") if word]
    known = next((index for index, word in enumerate(words) if _is_known(word)), len(words))
    return "-".join(words[:known]), None, None, words[known:]


def _is_known(word: str) -> bool:
    return word in _VARIANT_WORDS or _leaves_variant_open(word)


def _leaves_variant_open(word: str) -> bool:
    return word in _SIZE_WORDS or any(pattern.fullmatch(word) for pattern in (_SIZE, _VERSION, _NEUTRAL))


def _variant(slug: str, rest: list[str], plain: Variant | None) -> tuple[Variant | None, Specialty | None]:
    meanings = _VARIANT_WORDS | _GEMMA_WORDS if "gemma" in slug else _VARIANT_WORDS
    said = {meanings[word] for word in rest if word in meanings}
    if "embedding" in (*said, plain):
        return "embedding", None
    if "code" in (*said, plain):
        # A code model made to be talked to is one specialty, whichever of the two words its name uses.
        return "code", "python" if "python" in rest else "instruct" if said & {"chat", "instruct"} else None
    for variant in ("chat", "instruct", "base"):
        if variant in said:
            return variant, None
    # A word that nobody here knows may name another fine-tuning, so the family's own variant no longer holds.
    return (plain if all(map(_leaves_variant_open, rest)) else None), None


def _size(rest: list[str], variant: Variant | None) -> str | None:
    words = _SIZE_WORDS | {"base"} if variant == "embedding" else _SIZE_WORDS
    numbers = (word for word in rest if _SIZE.fullmatch(word))
    return next(numbers, next((word for word in rest if word in words), None))
