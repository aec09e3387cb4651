"""The catalogue: what it refuses and how it says so, and the truth of what ours contains."""

import json
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from service.catalog import Catalog, Family, Model, Shape, load, size_in_parameters
from service.documents import ConfigError

MODELS = Path(__file__).parent.parent / "models"
MINIMAL = """\
family: {family}
title: A family
licence: {{}}
models:
  - id: {id}
    variant: base
    hub: org/name
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load(MODELS)


def write(folder: Path, **files: str) -> Path:
    """A catalogue's folder holding `files`, each named without its ending."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def problems(folder: Path) -> list[str]:
    """The mistakes in the catalogue at `folder`, each without the path of the folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


# What is refused


@pytest.mark.parametrize(
    ("line", "replacement", "problem"),
    [
        ("family: a", "family: A", "a.yaml:1: family: String should match pattern"),
        ("family: a", "family: b", "a.yaml:1: family: must be the file's name, 'a'"),
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
            "a.yaml:5: models[0]: a model of variant 'base' has no 'chat'",
        ),
        (
            "hub: org/name",
            "hub: org/name\n    specialty: python",
            "a.yaml:5: models[0]: only a model of variant 'code'",
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
            "a.yaml:8: models[0].infill: the infilling prompt must hold {suffix} exactly once",
        ),
        (
            "variant: base",
            "variant: chat\n    chat:\n      template: gone.jinja",
            "a.yaml:8: models[0].chat.template: there is no",
        ),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, line: str, replacement: str, problem: str) -> None:
    text = MINIMAL.format(family="a", id="x")
    load(write(tmp_path, a=text))
    found = problems(write(tmp_path, a=text.replace(line, replacement)))
    assert any(one.startswith(problem) for one in found), found


def test_the_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="family: a\n",
        b=MINIMAL.format(family="b", id="x").replace("base", "bass"),
        c="family: [\n",
        d=MINIMAL.format(family="wrong", id="y"),
        tasks="tasks:\n  generation: [base, bass]\n",
    )
    assert [problem.split(" ")[0:2] for problem in problems(tmp_path)] == [
        ["a.yaml:1:", "title:"],
        ["a.yaml:1:", "licence:"],
        ["a.yaml:1:", "models:"],
        ["b.yaml:6:", "models[0].variant:"],
        ["c.yaml:2:", "expected"],
        ["d.yaml:1:", "family:"],
        ["tasks.yaml:2:", "tasks.generation[1]:"],
    ]


def test_an_id_belongs_to_one_model(tmp_path: Path) -> None:
    write(tmp_path, a=MINIMAL.format(family="a", id="x"), b=MINIMAL.format(family="b", id="x"))
    assert problems(tmp_path) == [
        "a.yaml:5: models[0].id: 'x' is not unique",
        "b.yaml:5: models[0].id: 'x' is not unique",
    ]


def test_a_folder_without_families_is_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \*\.yaml"):
        load(tmp_path)


# What ours contains


def test_finds_by_id_and_by_hub_id_in_any_case(catalog: Catalog) -> None:
    model = catalog.models["llama-2-13b-chat"]
    assert catalog.find("Llama-2-13B-Chat") is model
    assert catalog.find("meta-llama/llama-2-13b-chat-HF") is model
    assert catalog.find("llama-2-13b-chat-hf") is None


def test_the_schema_for_editors_is_up_to_date() -> None:
    assert json.loads((MODELS / "schema.json").read_text()) == Family.model_json_schema(), (
        "run: python -m service.catalog > models/schema.json"
    )


def test_every_file_names_the_schema() -> None:
    for path in MODELS.glob("*-llama*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_each_task_has_variants(catalog: Catalog) -> None:
    assert all(variants for variants in catalog.tasks.values())
    assert catalog.tasks["code-completion"][0] == "code"


def parameters(shape: Shape) -> int:
    """How many parameters LlamaForCausalLM has in this shape, with its embeddings untied."""
    hidden, layers, heads = shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads
    kv_heads, head, inner, vocab = shape.num_key_value_heads, shape.head_dim, shape.intermediate_size, shape.vocab_size
    assert hidden and layers and heads and kv_heads and head and inner and vocab
    assert shape.tie_word_embeddings is False
    attention = 2 * hidden * heads * head + 2 * hidden * kv_heads * head
    layer = attention + 3 * hidden * inner + 2 * hidden
    return 2 * vocab * hidden + layers * layer + hidden


def of(catalog: Catalog, *families: str) -> list[Model]:
    """The models of some families."""
    return [model for family in families for model in catalog.families[family].models]


def test_the_parameters_follow_from_the_shape(catalog: Catalog) -> None:
    models = of(catalog, "llama-2", "code-llama")
    assert len(models) == 6 + 12
    for model in models:
        assert model.parameters == parameters(model.shape), model.id
        assert model.size
        assert model.parameters == pytest.approx(size_in_parameters(model.size), rel=0.05), model.id


def test_only_the_right_code_llamas_fill_in_the_middle(catalog: Catalog) -> None:
    able = {model.id for model in of(catalog, "code-llama") if "infill" in model.capabilities}
    assert able == {"code-llama-7b", "code-llama-7b-instruct", "code-llama-13b", "code-llama-13b-instruct"}
    for model_id in able:
        model = catalog.models[model_id]
        assert model.infill
        assert model.infill.prompt == "<PRE> {prefix}\u2581<SUF>{suffix}\u2581<MID>"
        assert model.infill.stop_token_ids == (32010,)
        assert model.shape.vocab_size == 32016


def test_only_chat_and_instruct_models_chat(catalog: Catalog) -> None:
    for model in of(catalog, "llama-2", "code-llama"):
        assert ("chat" in model.capabilities) == (model.variant == "chat" or model.specialty == "instruct"), model.id
        assert not model.chat or model.chat.template


@pytest.mark.parametrize(("size", "number"), [("13b", 13e9), ("8x7B", 56e9), ("1.3b", 1.3e9), ("1m", 1e6), ("mini", 0)])
def test_sizes_can_be_ordered(size: str, number: float) -> None:
    assert size_in_parameters(size) == number


# The chat templates

Message = dict[str, str]
SYSTEM: Message = {"role": "system", "content": "Be brief. "}
TURNS: list[Message] = [
    {"role": "user", "content": " Hello\n"},
    {"role": "assistant", "content": " Hi! "},
    {"role": "user", "content": "Bye"},
]


def render(template: str, messages: list[Message], add_generation_prompt: bool = True) -> str:
    """The prompt as the engine renders it, in the same kind of environment."""

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    source = (MODELS / "templates" / template).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        messages=messages, add_generation_prompt=add_generation_prompt, bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (TURNS[:1], "<s>[INST] Hello [/INST]"),
        ([SYSTEM, *TURNS[:1]], "<s>[INST] <<SYS>>\nBe brief. \n<</SYS>>\n\n Hello [/INST]"),
        (TURNS, "<s>[INST] Hello [/INST] Hi! </s><s>[INST] Bye [/INST]"),
        (
            [SYSTEM, *TURNS],
            "<s>[INST] <<SYS>>\nBe brief. \n<</SYS>>\n\n Hello [/INST] Hi! </s><s>[INST] Bye [/INST]",
        ),
    ],
)
def test_llama_2(messages: list[Message], prompt: str) -> None:
    assert render("llama-2.jinja", messages) == prompt


ASK = "Source: assistant\nDestination: user\n\n "


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (TURNS[:1], "<s>Source: system\n\n  <step> Source: user\n\n Hello <step> " + ASK),
        ([SYSTEM, *TURNS[:1]], "<s>Source: system\n\n Be brief. <step> Source: user\n\n Hello <step> " + ASK),
        (
            TURNS,
            "<s>Source: system\n\n  <step> Source: user\n\n Hello <step> Source: assistant\n\n Hi! <step> "
            "Source: user\n\n Bye <step> " + ASK,
        ),
    ],
)
def test_code_llama_70b_instruct(messages: list[Message], prompt: str) -> None:
    assert render("code-llama-70b-instruct.jinja", messages) == prompt
    assert render("code-llama-70b-instruct.jinja", messages, add_generation_prompt=False) == prompt.removesuffix(ASK)


@pytest.mark.parametrize("template", sorted(path.name for path in (MODELS / "templates").glob("*llama*.jinja")))
@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "no user message"),
        ([SYSTEM], "no user message"),
        ([TURNS[1]], "expected user, found assistant"),
        ([SYSTEM, TURNS[1]], "expected user, found assistant"),
        ([TURNS[0], TURNS[0]], "expected assistant, found user"),
        ([TURNS[0], SYSTEM], "expected assistant, found system"),
        ([SYSTEM, SYSTEM, TURNS[0]], "expected user, found system"),
        ([TURNS[0], {"role": "tool", "content": "4"}], "expected assistant, found tool"),
    ],
)
def test_roles_that_do_not_take_turns_are_refused(template: str, messages: list[Message], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        render(template, messages)
