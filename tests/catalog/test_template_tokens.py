"""The tokens of rendered templates and of Code Llama's infill prompts, with real vocabularies.

The libraries that make them take seconds to import, so the fast run leaves these tests out.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from service.catalog.infill import Order, infill
from tests.catalog.test_templates import TURNS, render
from tests.support.fleets import CATALOG

pytestmark = pytest.mark.slow

MARKERS = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")


@pytest.fixture(scope="module")
def mistral_v1() -> Any:
    """Mistral's first tokenizer and prompt format, whose vocabulary Mixtral and Zephyr share."""
    import mistral_common
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_file(str(Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"))


def llama_tokenizer(folder: Path, pieces: Any, kind: str, model_type: str) -> Any:
    """A tokenizer of class `kind` with these sentencepiece pieces, as transformers loads it from a hub repository."""
    from transformers import AutoTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.vocab_size())}
    merges = generate_merges(vocabulary, {piece: pieces.get_score(index) for piece, index in vocabulary.items()})
    markers = {marker: len(vocabulary) + index for index, marker in enumerate(MARKERS)} if "Code" in kind else {}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for text, index in ({"<unk>": 0, "<s>": 1, "</s>": 2} | markers).items()
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "vocab": vocabulary | markers, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True,
        "add_bos_token": True, "add_eos_token": False,
    }  # fmt: skip
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("config.json", {"model_type": model_type}),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["mistral", "llama"])
def hub_tokenizer(request: pytest.FixtureRequest, mistral_v1: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same vocabulary as transformers loads it for a Mistral (from its file) and for a Llama (by its class)."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    return llama_tokenizer(tmp_path_factory.mktemp("v1"), pieces, "LlamaTokenizer", request.param)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello there"}],
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, you"}, TURNS[2]],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n\n there"}],
    ],
)
def test_mistral_v1_tokens_equal_mistral_commons(messages: list[Any], mistral_v1: Any, hub_tokenizer: Any) -> None:
    """In their text form, the space after BOS and EOS is only sentencepiece's mark for the start of a word."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    wanted = mistral_v1.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
    assert hub_tokenizer.encode(render("mistral-v1.jinja", messages), add_special_tokens=False) == wanted


@pytest.mark.parametrize("name", ["zephyr.jinja", "solar.jinja", "phi-3.jinja", "orca-2.jinja", "mistral-v1.jinja"])
def test_same_tokens_whether_template_or_tokenizer_adds_bos(name: str, hub_tokenizer: Any) -> None:
    """`/v1/responses` tokenizes with special tokens, the other endpoints without."""
    tokens = hub_tokenizer.encode(render(name, TURNS), add_special_tokens=False)
    assert hub_tokenizer.encode(render(name, TURNS, bos_is_added=True)) == tokens
    assert tokens[0] == hub_tokenizer.bos_token_id and tokens[1] != hub_tokenizer.bos_token_id


# Code Llama's infill tokens


@pytest.fixture(scope="module")
def code_llama(mistral_v1: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with Code Llama's infill tokens, of the class that its repositories name."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    return llama_tokenizer(tmp_path_factory.mktemp("code"), pieces, "CodeLlamaTokenizer", "llama")


@pytest.mark.parametrize("order", ["prefix_first", "suffix_first"])
@pytest.mark.parametrize("model_id", ["code-llama-7b", "code-llama-13b-instruct"])
@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("def f(x):\n    ", "\n    return y\n"),
        ("x = ", " + 1"),
        ('def f(s: str) -> str:\n    """ ', "\n    return s\n"),
        ("print('Hello w", "orld')"),
        ("    indented", ""),
        ("", "def f"),
    ],
)
def test_code_llama_infill_tokens_equal_those_of_metas_code(
    order: Order, model_id: str, prefix: str, suffix: str, code_llama: Any, mistral_v1: Any
) -> None:
    """Meta's code encodes each text by itself, and the suffix without the space that sentencepiece puts in front."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    pre, suf, mid = code_llama.convert_tokens_to_ids(list(MARKERS[:3]))
    before, after = pieces.encode(prefix), pieces.encode("☺" + suffix)[2:]
    assert len(pieces.encode("☺")) == 2
    wanted = [1, pre, *before, suf, *after, mid] if order == "prefix_first" else [1, pre, suf, *after, mid, *before]
    template = CATALOG.models[model_id].infill
    assert template
    assert code_llama.encode(infill(template, prefix, suffix, order)) == wanted
