"""Loading a catalogue and its error messages, lookup, and facts about the models in ours."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.architectures.parameters import missing_sizes
from service.architectures.registry import ARCHITECTURES
from service.catalog import names
from service.catalog.catalog import Catalog, load
from service.catalog.model import Family, Model
from service.config.strict_yaml import ConfigError
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG, ROOT

MODELS = ROOT / "models"
MINIMAL = """\
family: {family}
title: A family
licence: {{}}
models:
  - id: {id}
    variant: base
    hub: org/name
"""
# 96 parameters: 16 in embedding table and head, 32 in attention, 36 in the feed-forward layer, 12 in norms.
SMALL = (
    "architecture: LlamaForCausalLM\n    shape: {hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 1, "
    "num_key_value_heads: 1, head_dim: 2, intermediate_size: 3, vocab_size: 2, tie_word_embeddings: false}"
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return CATALOG


def write(folder: Path, **files: str) -> Path:
    """Writes `files`, named without `.yaml`, into the catalogue in `folder`."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def problems(folder: Path) -> list[str]:
    """The problems of the catalogue in `folder`, without the path of the folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


# Mistakes


@pytest.mark.parametrize(
    ("line", "replacement", "problem"),
    [
        ("family: a", "family: A", "a.yaml:1: family: String should match pattern"),
        ("family: a", "family: b", "a.yaml:1: family: must be the name of the file, 'a'"),
        ("title: A family", "titel: A family", "a.yaml:1: title: is missing"),
        ("  - id: x", "  - id: X", "a.yaml:5: models[0].id: String should match pattern"),
        ("  - id: x", "  - id: x\n    id: y", "a.yaml:6: models[0].id: stands twice in one mapping"),
        ("variant: base", "variant: bass", "a.yaml:6: models[0].variant: Input should be 'base', 'chat'"),
        ("variant: base", "size: 7b", "a.yaml:5: models[0].variant: is missing"),
        ("hub: org/name", "hub: name", "a.yaml:7: models[0].hub: String should match pattern"),
        ("hub: org/name", "note: x", "a.yaml:5: models[0]: give either 'hub'"),
        ("hub: org/name", "hub: org/name\n    path: x", "a.yaml:5: models[0]: give either 'hub'"),
        ("hub: org/name", "path: gone", "a.yaml:7: models[0].path: there is no folder"),
        (
            "hub: org/name",
            "hub: org/name\n    chat: {}",
            "a.yaml:5: models[0]: a model of variant 'base' cannot have a 'chat'",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    specialty: python",
            "a.yaml:5: models[0]: only a model of variant 'code'",
        ),
        (
            "variant: base",
            "variant: reranker\n    chat: {}",
            "a.yaml:5: models[0]: a model of variant 'reranker' cannot have a 'chat'",
        ),
        ("variant: base", "variant: base\n    vision: true", "a.yaml:5: models[0]: only a model with a 'chat' block"),
        (
            "variant: base",
            "variant: chat\n    chat: {}\n    thinking: {default: always, switch: thinking}",
            "a.yaml:8: models[0].thinking: a model that thinks 'always' has neither 'switch' nor 'levels'",
        ),
        (
            "variant: base",
            "variant: chat\n    chat: {}\n    thinking: {default: never}\n    engine: {reasoning_parser: qwen3}",
            "a.yaml:5: models[0]: a model that never thinks cannot have a 'reasoning_parser'",
        ),
        ("hub: org/name", "hub: org/name\n    revision: main", "a.yaml:8: models[0].revision: String should match"),
        (
            "hub: org/name",
            "hub: org/name\n    parameters: 7b",
            "a.yaml:8: models[0].parameters: Input should be a valid",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    context: 0",
            "a.yaml:8: models[0].context: Input should be greater than 0",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    shape: {hidden: 1}",
            "a.yaml:8: models[0].shape.hidden: unknown key; see the documentation",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    infill: {prompt: '{prefix}'}",
            "a.yaml:8: models[0].infill.prompt: the prompt must contain {suffix} exactly once",
        ),
        (
            "variant: base",
            "variant: chat\n    chat:\n      template: gone.jinja",
            "a.yaml:8: models[0].chat.template: there is no",
        ),
        (
            "variant: base",
            "variant: chat\n    chat:\n      fallback: gone.jinja",
            "a.yaml:8: models[0].chat.fallback: there is no",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    architecture: LamaForCausalLM",
            "a.yaml:8: models[0].architecture: 'LamaForCausalLM' is not one of BertForMaskedLM, ",
        ),
        (
            "hub: org/name",
            f"hub: org/name\n    revision: {'a' * 39}",
            "a.yaml:8: models[0].revision: String should match",
        ),
        (
            "hub: org/name",
            f"hub: org/name\n    {SMALL}\n    parameters: 97",
            "a.yaml:5: models[0]: 'parameters' is 97, but the shape gives 96",
        ),
        (
            "hub: org/name",
            f"hub: org/name\n    {SMALL.replace('}', ', sliding_window: 8}')}",
            "a.yaml:5: models[0]: 'shape' has sliding_window, which LlamaForCausalLM does not have",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    shape: {num_attention_heads: 6, num_key_value_heads: 4}",
            "a.yaml:8: models[0].shape: 6 attention heads cannot share 4 key-value heads evenly",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    copies:\n      - {hub: org/name-gguf, quantization: gguf}",
            "a.yaml:9: models[0].copies[0].quantization: Input should be 'awq'",
        ),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, line: str, replacement: str, problem: str) -> None:
    text = MINIMAL.format(family="a", id="x")
    load(write(tmp_path, a=text))
    found = problems(write(tmp_path, a=text.replace(line, replacement)))
    assert any(text.startswith(problem) for text in found), found


def test_mistakes_in_all_files_are_reported_together(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="family: a\n",
        b=MINIMAL.format(family="b", id="x").replace("base", "bass"),
        c="family: [\n",
        d=MINIMAL.format(family="wrong", id="y"),
        tasks="tasks:\n  generation: {about: x, suits: [base, bass]}\n",
    )
    assert [problem.split(" ")[0:2] for problem in problems(tmp_path)] == [
        ["a.yaml:1:", "title:"],
        ["a.yaml:1:", "licence:"],
        ["a.yaml:1:", "models:"],
        ["b.yaml:6:", "models[0].variant:"],
        ["c.yaml:2:", "expected"],
        ["d.yaml:1:", "family:"],
        ["tasks.yaml:2:", "tasks.generation.suits[1]:"],
    ]


def test_duplicate_id_is_an_error(tmp_path: Path) -> None:
    other = MINIMAL.format(family="b", id="x").replace("org/name", "org/other")
    write(tmp_path, a=MINIMAL.format(family="a", id="x"), b=other)
    assert problems(tmp_path) == [
        "a.yaml:5: models[0].id: 'x' is not unique",
        "b.yaml:5: models[0].id: 'x' is not unique",
    ]


def test_duplicate_hub_id_is_an_error(tmp_path: Path) -> None:
    copied = "    copies:\n      - {hub: ORG/Name, quantization: awq}\n"
    other = MINIMAL.format(family="b", id="y").replace("org/name", "org/other") + copied
    write(tmp_path, a=MINIMAL.format(family="a", id="x"), b=other)
    assert problems(tmp_path) == [
        "a.yaml:7: models[0].hub: 'org/name' is not unique",
        "b.yaml:9: models[0].copies[0].hub: 'ORG/Name' is not unique",
    ]


@pytest.mark.parametrize("wrong", ["{{ message", "{%- for -%}", "{{ message | shout }}"])
def test_template_error_names_its_line(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "templates").mkdir()
    text = "{%- for message in messages -%}\n" + wrong + "\n{%- endfor -%}"
    (tmp_path / "templates" / "x.jinja").write_text(text, encoding="utf-8")
    entry = MINIMAL.format(family="a", id="x").replace("variant: base", "variant: chat\n    chat: {template: x.jinja}")
    (problem,) = problems(write(tmp_path, a=entry))
    assert re.match(
        rf"a\.yaml:7: models\[0\]\.chat\.template: {re.escape(str(tmp_path))}/templates/x\.jinja:[23]: ", problem
    )


# Lookup


def test_find_by_id_and_hub_id_ignores_case(catalog: Catalog) -> None:
    model = catalog.models["llama-2-13b-chat"]
    assert catalog.find("Llama-2-13B-Chat") is model
    assert catalog.find("meta-llama/llama-2-13b-chat-HF") is model
    assert catalog.find("llama-2-13b-chat-hf") is None
    assert model.chosen_copy is None


def test_find_by_the_hub_id_of_a_quantised_copy(catalog: Catalog) -> None:
    model = catalog.models["qwen3-32b"]
    found = catalog.find("qwen/QWEN3-32b-awq")
    assert found
    assert (found.id, found.hub, found.gated, found.dtype) == ("qwen3-32b", "Qwen/Qwen3-32B-AWQ", None, None)
    assert (model.gated, model.dtype) == (False, "bfloat16")
    assert found.chosen_copy and found.chosen_copy.quantization == "awq"
    assert (found.shape, found.chat, found.engine) == (model.shape, model.chat, model.engine)


def test_quantised_copy_does_not_get_the_revision_of_the_original(tmp_path: Path) -> None:
    more = f"    revision: {'a' * 40}\n    copies:\n      - {{hub: org/copy, quantization: gptq}}\n"
    known = load(write(tmp_path, a=MINIMAL.format(family="a", id="x") + more))
    original, copied = known.find("org/name"), known.find("org/copy")
    assert original and original.revision
    assert copied and copied.revision is None


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("llama-2-13b-caht", "llama-2-13b-chat"),
        ("meta-llama/Llama-2-13b-chat", "llama-2-13b-chat"),
        ("CodeLlama-7b", "code-llama-7b"),
        ("qwen-3-8b", "qwen3-8b"),
        ("gpt2", "gpt-2"),
    ],
)
def test_suggestions_for_an_unknown_name(catalog: Catalog, name: str, closest: str) -> None:
    suggestions = catalog.suggest(name)
    assert suggestions[0] == closest
    assert len(suggestions) == len(set(suggestions)) <= 3


def test_no_suggestion_for_a_dissimilar_name(catalog: Catalog) -> None:
    assert catalog.suggest("xyzzy") == []


# The models of our catalogue

FAMILIES: dict[str, tuple[str, ...]] = {
    "llama-2": (
        "llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat",
    ),
    "mixtral": ("mixtral-8x7b-v0.1", "mixtral-8x7b-instruct-v0.1"),
    "mistral": (
        "mistral-7b-v0.1", "mistral-7b-instruct-v0.1", "mistral-7b-instruct-v0.2", "mistral-7b-instruct-v0.3",
    ),
    "zephyr": ("zephyr-7b-beta", "zephyr-7b-alpha"),
    "solar": ("solar-10.7b-v1.0", "solar-10.7b-instruct-v1.0"),
    "code-llama": tuple(
        f"code-llama-{size}{kind}" for size in ("7b", "13b", "34b", "70b") for kind in ("", "-python", "-instruct")
    ),
    "phi-3": (
        "phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct", "phi-3-small-8k-instruct", "phi-3-medium-4k-instruct",
        "phi-3-medium-128k-instruct",
    ),
    "orca-2": ("orca-2-7b", "orca-2-13b"),
    "falcon": ("falcon-7b", "falcon-7b-instruct", "falcon-40b", "falcon-40b-instruct"),
    "gpt-2": ("gpt-2",),
    "bert": ("bert-base-uncased",),
    "grok-1": ("grok-1",),
    "llama-3.1": ("llama-3.1-8b-instruct", "llama-3.1-70b-instruct"),
    "llama-3.2": ("llama-3.2-1b-instruct", "llama-3.2-3b-instruct"),
    "qwen2.5-coder": (
        "qwen2.5-coder-7b", "qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b", "qwen2.5-coder-32b-instruct",
    ),
    "qwen3": (
        "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen3-30b-a3b",
        "qwen3-235b-a22b", "qwen3-4b-instruct-2507", "qwen3-4b-thinking-2507", "qwen3-30b-a3b-instruct-2507",
        "qwen3-30b-a3b-thinking-2507", "qwen3-235b-a22b-instruct-2507", "qwen3-235b-a22b-thinking-2507",
    ),
    "qwen3-embedding": ("qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"),
    "gemma-3": ("gemma-3-4b-it", "gemma-3-12b-it", "gemma-3-27b-it"),
    "mistral-small": (
        "mistral-small-24b-instruct-2501", "mistral-small-3.1-24b-instruct-2503",
        "mistral-small-3.2-24b-instruct-2506", "mistral-small-4-119b-2603",
    ),
    "phi-4": ("phi-4", "phi-4-mini-instruct", "phi-4-reasoning", "phi-4-reasoning-plus"),
    "gpt-oss": ("gpt-oss-20b", "gpt-oss-120b"),
    "deepseek-r1-distill": ("deepseek-r1-distill-llama-8b",),
    "deepseek-coder": ("deepseek-coder-v2-lite-base", "deepseek-coder-v2-lite-instruct"),
    "starcoder2": ("starcoder2-7b", "starcoder2-15b"),
    "bge": ("bge-small-en-v1.5", "bge-m3", "bge-reranker-v2-m3"),
    "e5": ("e5-small", "e5-small-v2"),
    "pebble": ("pebble-base", "pebble-chat", "pebble-instruct", "pebble-code"),
    "codestral": ("codestral-22b-v0.1",),
    "deepseek-r1": ("deepseek-r1-0528",),
    "deepseek-v3": ("deepseek-v3-0324", "deepseek-v3.1", "deepseek-v3.2"),
    "deepseek-v4": ("deepseek-v4-flash", "deepseek-v4-pro"),
    "devstral": ("devstral-small-2507", "devstral-small-2-24b-instruct-2512", "devstral-2-123b-instruct-2512"),
    "embeddinggemma": ("embeddinggemma-300m",),
    "gemma-3n": ("gemma-3n-e2b-it", "gemma-3n-e4b-it"),
    "gemma-4": ("gemma-4-e2b-it", "gemma-4-e4b-it", "gemma-4-12b-it", "gemma-4-26b-a4b-it", "gemma-4-31b-it"),
    "glm-4.5": ("glm-4.5", "glm-4.5-air"),
    "glm-4.6": ("glm-4.6",),
    "glm-4.7": ("glm-4.7", "glm-4.7-flash"),
    "glm-5": ("glm-5.2",),
    "gpt-oss-safeguard": ("gpt-oss-safeguard-20b",),
    "granite-4": ("granite-4.0-h-small", "granite-4.0-h-tiny", "granite-4.0-h-micro", "granite-4.0-micro"),
    "kimi-k2": ("kimi-k2-instruct", "kimi-k2-thinking", "kimi-k2.5", "kimi-k2.6"),
    "llama-3.3": ("llama-3.3-70b-instruct",),
    "llama-4": ("llama-4-scout-17b-16e-instruct", "llama-4-maverick-17b-128e-instruct"),
    "llama-guard": ("llama-guard-3-8b", "llama-guard-3-1b", "llama-guard-4-12b"),
    "magistral": ("magistral-small-2507",),
    "minimax-m2": ("minimax-m2", "minimax-m2.5", "minimax-m2.7"),
    "minimax-m3": ("minimax-m3",),
    "ministral-3": ("ministral-3-3b-instruct-2512", "ministral-3-8b-instruct-2512", "ministral-3-14b-instruct-2512"),
    "nemotron-3": ("nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b"),
    "nemotron-nano": ("nemotron-nano-9b-v2",),
    "nomic-embed": ("nomic-embed-text-v1.5", "nomic-embed-text-v2-moe"),
    "olmo-3": ("olmo-3-7b-instruct", "olmo-3-7b-think", "olmo-3-32b-think"),
    "qwen3-coder": ("qwen3-coder-30b-a3b-instruct", "qwen3-coder-480b-a35b-instruct", "qwen3-coder-next"),
    "qwen3-next": ("qwen3-next-80b-a3b-instruct", "qwen3-next-80b-a3b-thinking"),
    "qwen3-reranker": ("qwen3-reranker-0.6b", "qwen3-reranker-4b", "qwen3-reranker-8b"),
    "qwen3.5": (
        "qwen3.5-0.8b", "qwen3.5-2b", "qwen3.5-4b", "qwen3.5-9b", "qwen3.5-27b", "qwen3.5-35b-a3b",
        "qwen3.5-122b-a10b", "qwen3.5-397b-a17b",
    ),
    "qwen3.6": ("qwen3.6-27b", "qwen3.6-35b-a3b"),
    "qwen3.8": ("qwen3.8-27b",),
    "qwen3guard": ("qwen3guard-gen-0.6b", "qwen3guard-gen-4b", "qwen3guard-gen-8b"),
    "smollm3": ("smollm3-3b",),
}  # fmt: skip
HUB_MODELS = [model for model in CATALOG.models.values() if model.hub]
every_model = each("model", CATALOG.models.values(), ids=by_id)
every_hub_model = each("model", HUB_MODELS, ids=by_id)


def test_catalogue_has_exactly_these_models(catalog: Catalog) -> None:
    found = {family.family: {model.id for model in family.models} for family in catalog.families.values()}
    assert found == {family: set(ids) for family, ids in FAMILIES.items()}
    assert len(HUB_MODELS) == 168


def test_schema_json_is_up_to_date() -> None:
    assert json.loads((MODELS / "schema.json").read_text()) == Family.model_json_schema(), (
        "run: python -m service.catalog.catalog > models/schema.json"
    )


def test_every_family_file_names_the_schema() -> None:
    for family in FAMILIES:
        assert (MODELS / f"{family}.yaml").read_text().partition("\n")[0] in (
            "# yaml-language-server: $schema=schema.json",
            # Pebble's, whose first line says how its weights are made instead.
            "# The embedded family: tiny models with one small skill each, trained by models/pebble/train.py. "
            "See models/pebble/README.md.",
        )


def test_every_registered_architecture_is_used() -> None:
    used = {model.architecture for model in CATALOG.models.values() if model.architecture}
    # The text decoder's class is needed for multimodal models, which are scaled down to it.
    assert used | {text for name in used if (text := ARCHITECTURES[name].text_class)} == set(ARCHITECTURES)


def test_every_template_file_is_used() -> None:
    chats = [model.chat for model in CATALOG.models.values() if model.chat]
    named = {name for chat in chats for name in (chat.template, chat.fallback) if name}
    assert named == {path.name for path in (MODELS / "templates").iterdir()}


@every_hub_model
def test_entry_agrees_with_its_parsed_name(model: Model) -> None:
    for text in (model.id, str(model.hub)):
        name = names.parse(text)
        assert name.family == CATALOG.family_of[model.id]
        assert (name.variant, name.specialty) == (model.variant, model.specialty)
        assert name.version in (model.version, None)
        assert name.size in (model.size, None)


def number(size: str | None) -> float | None:
    """`13b` → 13e9, `8x7b` → 56e9; None for a word."""
    found = re.fullmatch(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([mb])", size or "")
    return int(found[1] or 1) * float(found[2]) * {"m": 1e6, "b": 1e9}[found[3]] if found else None


@every_hub_model
def test_parameters_agree_with_the_size(model: Model) -> None:
    size = number(model.size)
    if size and model.parameters:
        assert model.parameters == pytest.approx(size, rel=0.25)


# Models whose shape is not fully known, so that their parameters cannot be counted.
UNCOUNTED = {
    "phi-3-small-8k-instruct", "phi-3-medium-128k-instruct", "phi-4-mini-instruct", "starcoder2-7b",
    "magistral-small-2507", "devstral-small-2507", "devstral-2-123b-instruct-2512", "llama-guard-3-8b",
    "llama-guard-3-1b", "qwen3-reranker-0.6b", "qwen3-reranker-4b", "qwen3guard-gen-0.6b", "qwen3guard-gen-4b",
    "qwen3guard-gen-8b",
}  # fmt: skip
# Families with an architecture that the planner does not know: hybrids, sparse attention, heads of several sizes.
UNPLANNED = {
    "deepseek-v4", "embeddinggemma", "gemma-3n", "gemma-4", "glm-5", "granite-4", "llama-4", "minimax-m3", "nemotron-3",
    "nemotron-nano", "nomic-embed", "qwen3-next", "qwen3.5", "qwen3.6", "qwen3.8",
}  # fmt: skip
# And single models, of whose network it does not know enough.
UNPLANNED_MODELS = {
    "deepseek-v3.2", "devstral-small-2-24b-instruct-2512", "llama-guard-4-12b", "ministral-3-14b-instruct-2512",
    "mistral-small-4-119b-2603", "qwen3-coder-next",
}  # fmt: skip


@every_hub_model
def test_parameters_agree_with_the_shape(model: Model) -> None:
    assert (model.network is None) == (CATALOG.family_of[model.id] in UNPLANNED or model.id in UNPLANNED_MODELS)
    if model.network is None:
        assert not model.shape.model_fields_set
        return
    assert bool(missing_sizes(model.network, model.shape, model.context)) == (model.id in UNCOUNTED)
    if model.id in UNCOUNTED:
        return
    assert model.parameters
    with pytest.raises(ValidationError, match=f"but the shape gives {model.parameters}"):
        Model.model_validate({**model.model_dump(), "parameters": model.parameters + 1})


@every_hub_model
def test_every_token_id_is_in_the_vocabulary(model: Model) -> None:
    forms = [form for form in (model.chat, model.infill) if form]
    ids = [*model.tokens.eos, *(stop for form in forms for stop in form.stop_token_ids)]
    ids += [model.tokens.bos] if model.tokens.bos is not None else []
    assert all(token < (model.shape.vocab_size or 2**31) for token in ids)


@every_model
def test_only_chat_instruct_and_guard_models_support_chat(model: Model) -> None:
    conversing = model.variant in ("chat", "instruct", "guard") or model.specialty == "instruct"
    assert ("chat" in model.capabilities) == conversing


def test_capabilities_of_the_variants_that_do_not_converse() -> None:
    capabilities = {model.variant: model.capabilities for model in HUB_MODELS if not model.chat}
    assert capabilities["embedding"] == {"embedding"}
    assert capabilities["reranker"] == {"rerank"}
    assert CATALOG.models["gemma-4-12b-it"].capabilities == {"chat", "completion", "vision"}
    assert CATALOG.models["llama-guard-4-12b"].capabilities == {"chat", "completion", "vision"}


@every_model
def test_parsers_fit_how_the_model_thinks(model: Model) -> None:
    """A parser for thoughts on a model without any would take its answers for thoughts."""
    engine, thinks = model.engine, model.thinking and model.thinking.default != "never"
    if "reasoning_parser" in engine:
        assert thinks
    assert ("tool_call_parser" in engine) == bool(engine.get("enable_auto_tool_choice"))
    # vLLM parses gpt-oss's format itself. Of the other, it has no parser without a plugin.
    if thinks and "reasoning_parser" not in engine:
        assert model.architecture == "GptOssForCausalLM" or model.id == "nemotron-nano-9b-v2"


@every_model
def test_parsers_are_vllms(model: Model) -> None:
    for kind, folder in (("reasoning_parser", "reasoning"), ("tool_call_parser", "tool_parsers")):
        if name := model.engine.get(kind):
            assert name in registered(folder)


@cache
def registered(folder: str) -> frozenset[str]:
    """The names in a parser registry of the installed vLLM, read from its source, since importing it takes seconds."""
    spec = importlib.util.find_spec("vllm")
    assert spec and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], folder, "__init__.py").read_text()
    return frozenset(re.findall(r'^ +"(\w+)": \(', source, re.M))


@pytest.mark.parametrize(
    ("model_id", "thinking"),
    [
        ("qwen3-8b", ("on", "enable_thinking", ())),
        ("qwen3-4b-instruct-2507", ("never", None, ())),
        ("qwen3-4b-thinking-2507", ("always", None, ())),
        ("kimi-k2.5", ("on", "thinking", ())),
        ("deepseek-v3.1", ("off", "thinking", ())),
        ("deepseek-v4-pro", ("on", "thinking", ("none", "high", "max"))),
        ("gemma-4-31b-it", ("off", "enable_thinking", ())),
        ("gpt-oss-20b", ("on", None, ("low", "medium", "high"))),
    ],
)
def test_how_a_model_thinks(model_id: str, thinking: tuple[str, str | None, tuple[str, ...]]) -> None:
    found = CATALOG.models[model_id].thinking
    assert found
    assert (found.default, found.switch, found.levels) == thinking


@every_model
def test_no_engine_starts_with_a_context_that_no_gpu_holds(model: Model) -> None:
    assert (model.context or 0) <= 262_144 or "max_model_len" in model.engine


NEWER = (
    "deepseek-r1", "deepseek-v3", "deepseek-v4", "devstral", "gemma-3n", "gemma-4", "glm-4.5", "glm-4.6", "glm-4.7",
    "glm-5", "gpt-oss-safeguard", "gpt-oss", "granite-4", "kimi-k2", "llama-4", "llama-guard", "magistral",
    "minimax-m2", "minimax-m3", "ministral-3", "nemotron-3", "nemotron-nano", "olmo-3", "qwen3-coder", "qwen3-next",
    "qwen3.5", "qwen3.6", "qwen3.8", "qwen3guard", "smollm3",
)  # fmt: skip


def test_models_without_an_own_template_in_the_catalogue() -> None:
    bare = {model.id for model in CATALOG.models.values() if model.chat and not model.chat.template}
    # vLLM renders gpt-oss's format itself, no vLLM runs Phi-3-small, and Pebble's weights have their own templates.
    own = {"phi-3-small-8k-instruct", "pebble-chat", "pebble-instruct"}
    # Newer models bring their own templates, or vLLM renders their format itself.
    own |= {model_id for family in NEWER for model_id in FAMILIES[family]}
    own |= {"phi-4-reasoning", "phi-4-reasoning-plus", "mistral-small-4-119b-2603"}
    own |= {model_id for model_id in FAMILIES["qwen3"] if model_id.endswith("-2507")}
    fallbacks = {model.id for model in CATALOG.models.values() if model.chat and model.chat.fallback}
    assert bare == own | fallbacks
    assert fallbacks == {
        "qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b-instruct", "deepseek-coder-v2-lite-instruct",
        *(model_id for model_id in FAMILIES["qwen3"] if not model_id.endswith("-2507")),
    }  # fmt: skip


@each(
    ("model_id", "stop", "stop_token_ids"),
    [
        ("code-llama-70b-instruct", (), (32015,)),
        *(
            (f"phi-3-{kind}-instruct", (), (32007, 32001))
            for kind in ("mini-4k", "mini-128k", "medium-4k", "medium-128k")
        ),
        ("orca-2-7b", (), (32002,)),
        ("orca-2-13b", (), (32002,)),
        ("falcon-7b-instruct", ("\nUser",), ()),
        ("falcon-40b-instruct", ("\nUser",), ()),
        ("llama-3.1-8b-instruct", (), (128008, 128009)),
        ("llama-3.2-1b-instruct", (), (128008, 128009)),
        ("gemma-3-4b-it", (), (106,)),
        ("qwen2.5-coder-7b-instruct", (), (151645,)),
        ("phi-4-mini-instruct", ("<|end|>",), (200020,)),
    ],
)
def test_stop_tokens_beyond_the_tokenizers_eos(
    model_id: str, stop: tuple[str, ...], stop_token_ids: tuple[int, ...]
) -> None:
    chat = CATALOG.models[model_id].chat
    assert chat
    assert (chat.stop, chat.stop_token_ids) == (stop, stop_token_ids)


def test_models_that_support_infill() -> None:
    assert {model.id for model in CATALOG.models.values() if "infill" in model.capabilities} == {
        "code-llama-7b", "code-llama-7b-instruct", "code-llama-13b", "code-llama-13b-instruct",
        "qwen2.5-coder-7b", "qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b", "qwen2.5-coder-32b-instruct",
        "deepseek-coder-v2-lite-base", "starcoder2-7b", "starcoder2-15b", "pebble-code",
        "qwen3-coder-30b-a3b-instruct", "qwen3-coder-480b-a35b-instruct", "codestral-22b-v0.1",
    }  # fmt: skip
    for model in HUB_MODELS:
        assert not model.infill or model.infill.stop or model.infill.stop_token_ids


def test_default_and_extended_contexts() -> None:
    default = {model.id: model.opening_context for model in HUB_MODELS if model.opening_context != model.context}
    assert default == {
        "phi-3-mini-128k-instruct": 4096, "phi-3-medium-128k-instruct": 4096, "phi-4-mini-instruct": 4096,
    }  # fmt: skip
    extended = {model.id for model in HUB_MODELS if model.longest == 100_000}
    assert extended == {*FAMILIES["code-llama"]} - {"code-llama-70b-python", "code-llama-70b-instruct"}


def test_sliding_windows() -> None:
    windows = {model.id: model.shape.sliding_window for model in HUB_MODELS if model.shape.sliding_window}
    assert windows == {
        "mistral-7b-v0.1": 4096, "mistral-7b-instruct-v0.1": 4096, "zephyr-7b-beta": 4096, "zephyr-7b-alpha": 4096,
        "phi-3-mini-4k-instruct": 2047, "phi-3-medium-4k-instruct": 2047, "phi-3-mini-128k-instruct": 262144,
        "phi-4-mini-instruct": 262144, "gemma-3-4b-it": 1024, "gemma-3-12b-it": 1024, "gemma-3-27b-it": 1024,
        "gpt-oss-20b": 128, "gpt-oss-120b": 128, "gpt-oss-safeguard-20b": 128, "starcoder2-7b": 4096,
        "starcoder2-15b": 4096, "olmo-3-7b-instruct": 4096, "olmo-3-7b-think": 4096, "olmo-3-32b-think": 4096,
    }  # fmt: skip


def test_models_that_vllm_does_not_support_say_so() -> None:
    refused = {model.id: model for model in HUB_MODELS if model.network and model.network.refused}
    assert set(refused) == {"bert-base-uncased", "grok-1", "phi-3-small-8k-instruct"}
    for model in refused.values():
        assert model.note and "No current vLLM" in model.note


UNKNOWN_LICENCES = {
    "deepseek-v3-0324", "deepseek-v3.1", "devstral-small-2507", "devstral-2-123b-instruct-2512", "e5-small",
    "falcon-7b", "gpt-oss-safeguard-20b", "kimi-k2-thinking", "magistral-small-2507",
    "mistral-small-3.2-24b-instruct-2506", "nemotron-nano-9b-v2", "nomic-embed-text-v2-moe", "phi-3-small-8k-instruct",
    "phi-3-medium-128k-instruct", "phi-4-reasoning", "phi-4-reasoning-plus", "qwen3.8-27b", "zephyr-7b-alpha",
}  # fmt: skip
# Licences of which only the name is known.
UNREAD_LICENCES = {"minimax-m2.7", "minimax-m3", "nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b"}


@every_hub_model
def test_licences_and_their_restrictions(model: Model) -> None:
    licence = CATALOG.licence(model)
    assert (licence.name is None) == (model.id in UNKNOWN_LICENCES)
    assert (licence.commercial is None) == (model.id in UNKNOWN_LICENCES | UNREAD_LICENCES)
    non_commercial = model.id in ("solar-10.7b-instruct-v1.0", "orca-2-7b", "orca-2-13b", "codestral-22b-v0.1")
    assert (licence.commercial is False) == non_commercial
    permissive = licence.name in ("MIT", "Apache-2.0", "Modified MIT License")
    assert permissive or licence.note


def test_a_pinned_commit_belongs_to_one_repository() -> None:
    """An entry that takes its sibling's fields must not take its commit."""
    pinned = [model.revision for model in HUB_MODELS if model.revision]
    assert "llama-2-13b-chat" in {model.id for model in HUB_MODELS if model.revision}
    assert len(pinned) == len(set(pinned))


def test_unverified_facts_stay_unknown() -> None:
    models = CATALOG.models
    assert models["mixtral-8x7b-v0.1"].revision is None
    assert models["qwen3.8-27b"].licence is None
    assert models["kimi-k2.6"].dtype is None
    assert models["qwen3guard-gen-8b"].parameters is None
    assert models["llama-2-13b"].gated is None
    assert models["code-llama-70b-python"].shape.rope_theta is None
    assert models["phi-3-small-8k-instruct"].shape.vocab_size is None
    assert models["phi-4-mini-instruct"].parameters is None
    assert models["deepseek-coder-v2-lite-base"].shape.rope_theta is None
    assert models["mistral-small-24b-instruct-2501"].tokens.eos == ()
    assert models["qwen2.5-coder-7b"].tokens.eos == ()
    assert models["solar-10.7b-v1.0"].dtype is None
    assert models["e5-small"].engine == {}


@every_model
def test_no_model_runs_code_of_its_repository(model: Model) -> None:
    assert "trust_remote_code" not in model.engine


# The task table


def test_variants_suited_for_each_task(catalog: Catalog) -> None:
    suits = {name: set(task.suits) for name, task in catalog.tasks.items()}
    for name in ("summarization", "generation", "question-answering", "understanding"):
        assert suits.pop(name) == {"base", "instruct"}
    for name in ("extraction", "classification", "sentiment", "ner"):
        assert suits.pop(name) == {"instruct"}
    for name in ("dialogue", "support", "social"):
        assert suits.pop(name) == {"chat"}
    for name in ("code-completion", "code-refactoring", "code-explanation", "code-chat"):
        assert suits.pop(name) == {"code"}
    assert not suits


@pytest.mark.parametrize(
    ("model_id", "tasks"),
    [
        ("llama-2-7b", ["summarization", "generation", "question-answering", "understanding"]),
        ("llama-2-7b-chat", ["dialogue", "support", "social"]),
        ("code-llama-7b-python", ["code-completion"]),
        ("code-llama-7b-instruct", ["code-completion", "code-refactoring", "code-explanation", "code-chat"]),
        ("bge-small-en-v1.5", []),
    ],
)
def test_tasks_of_a_model(catalog: Catalog, model_id: str, tasks: list[str]) -> None:
    assert catalog.tasks_of(catalog.models[model_id]) == tasks
