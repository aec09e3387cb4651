"""Compiles what is to constrain an output, with the compilers of vLLM's default, `auto`; part of the program `worker`.

vLLM tries xgrammar first, and what that refuses llguidance, or outlines where a schema has `patternProperties`. The
vocabulary is a small made-up one: what kills or stalls a compiler does so with it as well.
"""

import json
import re
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, cast

# A schema that has one of these may be refused by xgrammar, which supports it only in part.
PARTLY_SUPPORTED = (
    "multipleOf", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames", "patternProperties",
    "allOf", "format", "minLength", "maxLength",
)  # fmt: skip
PARTLY = re.compile("|".join(f'"{name}"' for name in PARTLY_SUPPORTED))
BYTES = [bytes((number,)) for number in range(256)]
END = b"</s>"
PRINTABLE = range(32, 127)
Compile = Callable[[str], Any]
# How the compilers say no; anything else ends the process, as a crash does.
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True)
class Compilers:
    """The compilers that are installed, by the kind of what they compile; `names` says which, with their versions."""

    names: tuple[str, ...]
    xgrammar: Mapping[str, Compile]
    llguidance: Mapping[str, Compile]
    outlines: Compile | None

    def compile(self, kind: str, text: str) -> None:
        """Raises one of REFUSALS whose text says why if no compiler that vLLM would try takes it."""
        refused = None
        if self.xgrammar:
            try:
                self.xgrammar[kind](text)
            except REFUSALS as error:
                refused = error
            if refused is None and not (kind == "json" and PARTLY.search(text)):
                return
        fallback = self.llguidance.get(kind)
        if kind == "json" and '"patternProperties"' in text:
            fallback = self.outlines
        if fallback is None:
            if refused is not None:
                raise refused
            return
        try:
            fallback(text)
        except REFUSALS:
            if refused is not None:
                raise refused from None
            if not self.xgrammar:
                raise


def present() -> list[str]:
    """Those that are installed, without a look at whether they can be imported."""
    names = []
    for name in ("xgrammar", "llguidance", "outlines_core"):
        with suppress(PackageNotFoundError):
            names.append(f"{name} {version(name)}")
    return names


def installed() -> Compilers:
    """Those that can be imported here."""
    found: dict[str, Any] = {"xgrammar": {}, "llguidance": {}, "outlines_core": None}
    for name, load in (("xgrammar", _xgrammar), ("llguidance", _llguidance), ("outlines_core", _outlines)):
        with suppress(ImportError, AttributeError):
            found[name] = load()
    names = tuple(name for name in present() if found[name.partition(" ")[0]])
    return Compilers(names, found["xgrammar"], found["llguidance"], found["outlines_core"])


def _xgrammar() -> Mapping[str, Compile]:
    spec = find_spec("xgrammar")
    if spec is None:
        raise ImportError("xgrammar")
    _import_without_torch(spec)
    from xgrammar.compiler import GrammarCompiler
    from xgrammar.structural_tag import StructuralTagItem
    from xgrammar.tokenizer_info import TokenizerInfo

    pairs = [bytes((first, second)) for first in b'etaoin" {}[],:' for second in b'etaoin" {}[],:']
    vocabulary = [*BYTES, END, *pairs]
    compiler = GrammarCompiler(
        TokenizerInfo(vocabulary, vocab_size=len(vocabulary), stop_token_ids=[256]), max_threads=1, cache_enabled=False
    )

    def compile_structural_tag(text: str) -> None:
        tag = json.loads(text)
        if "structures" not in tag:
            compiler.compile_structural_tag(text)
            return
        items = [
            StructuralTagItem(begin=one["begin"], schema=json.dumps(one["schema"]), end=one["end"])
            for one in tag["structures"]
        ]
        compiler.compile_structural_tag(items, tag["triggers"])

    def compile_grammar(text: str) -> None:
        (compiler.compile_grammar if is_ebnf(text) else compiler.compile_lark)(text)

    return {
        "json": compiler.compile_json_schema, "regex": compiler.compile_regex, "grammar": compile_grammar,
        "structural_tag": compile_structural_tag,
    }  # fmt: skip


def _import_without_torch(spec: ModuleSpec) -> None:
    """Makes `xgrammar.*` importable without its `__init__`, which imports torch and transformers.

    Those take seconds and 200 MB, and its compiler uses neither.
    """
    sys.modules["torch"] = cast(types.ModuleType, None)  # which makes importing it an ImportError
    transformers = types.ModuleType("transformers")
    transformers.PreTrainedTokenizerBase = transformers.PreTrainedTokenizerFast = type(None)  # type: ignore[attr-defined]
    package = types.ModuleType("xgrammar")
    package.__path__, package.__spec__ = list(spec.submodule_search_locations or ()), spec
    sys.modules.update(transformers=transformers, xgrammar=package)
    import xgrammar.load_binding  # noqa: F401


def _llguidance() -> Mapping[str, Compile]:
    from llguidance import LLMatcher, grammar_from

    def compile_with(kind: Any) -> Compile:
        def compile_it(text: str) -> None:
            if kind == "json":
                grammar = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": True})
            else:
                grammar = grammar_from(kind, text)
            if problem := LLMatcher.validate_grammar(grammar, None):
                raise ValueError(problem)

        return compile_it

    return {kind: compile_with(kind) for kind in ("json", "regex", "grammar")}


def _outlines() -> Compile:
    from outlines_core import Index, Vocabulary
    from outlines_core.json_schema import build_regex_from_schema

    vocabulary = Vocabulary(0, {chr(number): [number] for number in PRINTABLE})

    def compile_schema(text: str) -> None:
        Index(build_regex_from_schema(text), vocabulary)

    return compile_schema


def is_ebnf(grammar: str) -> bool:
    """Whether a grammar has a rule of EBNF, as vLLM tells the two syntaxes apart; otherwise it is one of Lark."""
    return any("::=" in re.sub(r"(#|//).*$", "", line) for line in grammar.split("\n"))
