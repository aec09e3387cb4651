"""Loading the fleet file: the served models that it yields, and the messages about its mistakes."""

import json
from pathlib import Path

import pytest

from service.catalog.engine_args import RESERVED_FLAGS
from service.catalog.model import Chat
from service.config.strict_yaml import ConfigError
from service.fleet import fleet
from service.fleet.engine_variables import FIXED, NEVER
from service.fleet.schema import RESERVED
from service.fleet.served_model import ServedModel
from service.weights import manifest
from service.weights.manifest import Manifest
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT, load, only, write

FINE_TUNE = "SorskootLLM-v2-13b-instruct"


def problems(folder: Path, text: str) -> list[str]:
    """The mistakes in the fleet that `text` describes, each without the file's path."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [problem.removeprefix(f"{folder}/fleet.yaml:") for problem in caught.value.problems]


# Mistakes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: models: is missing"),
        ("models: []", "1: models: Tuple should have at least 1 item"),
        ("models:\n  - model: pebble-chat\nport: 80", "3: port: unknown key"),
        ("models:\n  - model: pebble-chat\n    replica: 2", "3: models[0].replica: unknown key"),
        (
            "models:\n  - model: pebble-chat\n    engine: {block_size: 16}\n    optional_flags: [block_sise]",
            "4: models[0].optional_flags: 'block_sise' is not among the 'engine' settings of this model",
        ),
        (
            "models:\n  - model: pebble-chat\noptional_flags: [block_size]",
            "3: optional_flags[0]: 'block_size' is not an 'engine' setting of any model",
        ),
        (
            "models:\n  - model: pebble-chat\noptional_flags: [fingerprint_mode]",
            "3: optional_flags[0]: is set by Roundhouse: always 'none'",
        ),
        ("models:\n  - id: x", "2: models[0].model: is missing"),
        (
            "models:\n  - model: pebble-base\n    vision: true",
            "3: models[0].vision: images are parts of conversations, and this is no chat model",
        ),
        (
            "models:\n  - model: ./weights/some-base\n    vision: true",
            "3: models[0].vision: images are parts of conversations, and this is no chat model",
        ),
        (
            "models:\n  - model: pebble-chat\nimages: {max_pixels: 0}",
            "3: images.max_pixels: Input should be greater than 0",
        ),
        ("models:\n  - model: pebble-chat\nimages: {max_size: 1}", "3: images.max_size: unknown key"),
        ("models:\n  - model: 3", "2: models[0].model: Input should be a valid string (found 3)"),
        ("models:\n  - model: pebble-chat\n    min_replicas: two", "3: models[0].min_replicas: Input should be"),
        ("models:\n  - model: pebble-chat\n    max_replicas: 0", "3: models[0].max_replicas: Input should be greater"),
        ("models:\n  - model: pebble-chat\n    gpus: -1", "3: models[0].gpus: Input should be greater"),
        ("models:\n  - model: pebble-chat\n    policy: random", "3: models[0].policy: Input should be 'prefix"),
        (
            "models:\n  - model: pebble-chat\n    max_replicas: 2\n    min_replicas: 3",
            "4: models[0].min_replicas: 3 is more than the 2 of",
        ),
        (
            "models:\n  - model: pebble-chat\n    addresses: [engines]",
            "3: models[0].addresses[0]: String should match pattern",
        ),
        (
            "models:\n  - model: pebble-chat\n    addresses: ['engines:0']",
            "3: models[0].addresses[0]: has no port between",
        ),
        (
            "models:\n  - model: pebble-chat\n    timeouts: {queue: 0}",
            "3: models[0].timeouts.queue: Input should be greater",
        ),
        ("models: [{model: pebble-chat}]\ntenants: {acme: {weight: 0}}", "2: tenants.acme.weight: Input should be"),
        ("models: [{model: pebble-chat}]\ntenants: {acme: {priority: high}}", "2: tenants.acme.priority: Input should"),
        ("models:\n  - model: pebble-chat\n    id: Big", "3: models[0].id: String should match pattern"),
        ("models:\n  - model: pebble-chat\n    variant: talk", "3: models[0].variant: Input should be 'base'"),
        ("models:\n  - model: pebble-chat\n    aliases: x", "3: models[0].aliases: Input should be a valid tup"),
        ("models:\n  - model: pebble-chat\n    infill: {prompt: '{prefix}'}",
         "3: models[0].infill.prompt: the prompt must contain {suffix} exactly once"),
        ("models:\n  - model: pebble-chat\n    engine: {max-model-len: 9}",
         "3: models[0].engine.max-model-len: String should match pattern"),
        ("models:\n  - model: pebble-chat\nstartup: later", "3: startup: Input should be 'auto', 'parallel' or"),
        ("models:\n  - model: pebbel-chat",
         "2: models[0].model: 'pebbel-chat' is neither an id of the catalogue, nor a hub id (organisation/name)"),
        ("models:\n  - model: SorskootLLM-13b", "2: models[0].model: the name 'SorskootLLM-13b' does not show"),
        ("models:\n  - model: a/b/c-chat", "2: models[0].model: 'a/b/c-chat' is neither an id of the catalogue"),
        ("models:\n  - model: org/a chat", "2: models[0].model: 'org/a chat' is neither an id of the catalogue"),
        ("models:\n  - model: 模型/模型\n    variant: chat", "2: models[0].model: '模型/模型' is neither an id of the"),
        ("models:\n  - model: ./模型\n    variant: chat",
         "2: models[0].model: no id can be made from the name './模型'"),
        ("models:\n  - model: org/___\n    variant: chat",
         "2: models[0].model: no id can be made from the name 'org/___': add 'id:' to the entry"),
        ("models:\n  - model: /nowhere/x-chat", "2: models[0].model: /nowhere/x-chat does not exist"),
        ("models:\n  - model: pebble-chat\n    weights: gone", "3: models[0].weights: {folder}/gone does not"),
        ("models:\n  - model: pebble-chat\n    chat_template: gone", "3: models[0].chat_template: {folder}/gone does"),
        ("models:\n  - model: pebble-chat\n    adapters: [{id: a, path: gone}]",
         "3: models[0].adapters[0].path: {folder}/gone does not exist"),
        ("models:\n  - model: pebble-chat\n    adapters: [{id: a}]", "3: models[0].adapters[0].path: is missing"),
        ("models:\n  - model: pebble-chat\n    specialty: python",
         "3: models[0].specialty: only a model of variant 'code' has a specialty; this one is 'chat'"),
        ("models:\n  - model: org/x-chat\n    specialty: python",
         "3: models[0].specialty: only a model of variant 'code' has a specialty; this one is 'chat'"),
        ("models:\n  - model: pebble-chat\n  - model: pebble-chat",
         "3: models[1].id: 'pebble-chat' is already the id or alias of another model"),
        ("models:\n  - model: pebble-chat\n  - model: pebble-base\n    aliases: [pebble-chat]",
         "4: models[1].aliases: 'pebble-chat' is already the id or alias of another model"),
        ("models:\n  - model: pebble-chat\n    aliases: [x, x]", "3: models[0].aliases: 'x' is already the id"),
        ("models:\n  - model: pebble-chat\n    aliases: [x]\naliases:\n  x: pebble-chat",
         "5: aliases.x: 'x' is already the id or alias of another model"),
        ("models:\n  - model: pebble-chat\n    adapters: [{id: pebble-chat, path: ./a}]",
         "3: models[0].adapters[0].id: 'pebble-chat' is already the id or alias of another model"),
        ("models:\n  - model: pebble-chat\naliases:\n  x: pebble-code",
         "4: aliases.x: 'pebble-code' is not the id of a served model"),
        ("models:\n  - model: pebble-chat\naliases:\n  x: pebble-chat\n  y: x",
         "5: aliases.y: 'x' is not the id of a served model"),
        ("models:\n  - model: pebble-chat\ndefaults:\n  code: pebble-code",
         "4: defaults.code: 'pebble-code' is not the id of a served model"),
        ("models:\n  - model: pebble-chat\ndefaults:\n  talk: pebble-chat",
         "4: defaults.talk: Input should be 'base', 'chat'"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_file_line_and_key(tmp_path: Path, text: str, problem: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(problem.replace("{folder}", str(tmp_path)))


@each("key", RESERVED_FLAGS)
@each("parent", ["models[0].engine", "engine"])
def test_flags_that_roundhouse_sets_are_refused(tmp_path: Path, key: str, parent: str) -> None:
    indent = "    " if parent.startswith("models") else ""
    found = problems(
        tmp_path, f"models:\n  - model: pebble-chat\n{indent}engine:\n{indent}  dtype: auto\n{indent}  {key}: x"
    )
    assert found == [f"5: {parent}.{key}: is set by {RESERVED_FLAGS[key]}"]


@each("name", [*FIXED, *NEVER])
@each("parent", ["models[0].env", "env"])
def test_variables_that_would_open_an_engine_are_refused(tmp_path: Path, name: str, parent: str) -> None:
    indent = "    " if parent.startswith("models") else ""
    (found,) = problems(tmp_path, f"models:\n  - model: pebble-chat\n{indent}env: {{{name}: 1}}")
    assert found.startswith(f"3: {parent}: {name} is ")
    assert found.endswith("for an engine: leave it out")


@pytest.mark.parametrize("word", RESERVED)
def test_names_reserved_for_routing_are_refused(tmp_path: Path, word: str) -> None:
    why = f"'{word}' is reserved for routing"
    assert problems(tmp_path, f"models:\n  - model: pebble-chat\n    id: {word}") == [f"3: models[0].id: {why}"]
    (as_alias,) = problems(tmp_path, f"models:\n  - model: pebble-chat\naliases:\n  {word}: pebble-chat")
    assert as_alias == f"4: aliases.{word}: {why}"


@pytest.mark.parametrize("name", ["qwen3:8b", "claude-opus-4-8[1m]", "x@1", "模型", "größe", "हिन्दी"])
def test_ids_and_aliases_have_letters_of_any_script(tmp_path: Path, name: str) -> None:
    text = f"models:\n  - model: ./folder-chat\n    id: '{name}'\n    aliases: ['x/{name}']\n"
    loaded = load(tmp_path, f"{text}aliases: {{'b-{name}': '{name}'}}")
    assert loaded.served[0].id == name
    assert loaded.aliases == {f"x/{name}": name, f"b-{name}": name}


@pytest.mark.parametrize(
    "name", ["a/b", "../x", ".x", "-x", ":x", "a b", "a\\u0000b", "a\\u202eb", "x" * 97, "模" * 67, ""]
)
def test_ids_are_safe_as_file_names(tmp_path: Path, name: str) -> None:
    (found,) = problems(tmp_path, f'models:\n  - model: pebble-chat\n    id: "{name}"')
    assert found.startswith("3: models[0].id: ")


def test_the_names_of_tasks_are_reserved(tmp_path: Path) -> None:
    found = problems(tmp_path, "models:\n  - model: pebble-chat\naliases:\n  task:mine: pebble-chat")
    assert found == ["4: aliases.task:mine: 'task:mine' is reserved for routing"]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """\
models:
  - model: /nowhere/a-chat
  - model: pebble-chat
  - model: pebble-chat
  - model: nothing-known
aliases:
  x: pebble-base
"""
    assert [problem.split(" ")[0:2] for problem in problems(tmp_path, text)] == [
        ["2:", "models[0].model:"],
        ["5:", "models[3].model:"],
        ["4:", "models[2].id:"],
        ["7:", "aliases.x:"],
    ]


# Resolved models


def test_a_catalogue_model_needs_only_its_id(tmp_path: Path) -> None:
    served = only(tmp_path, "model: llama-2-13b-chat")
    assert (served.id, served.variant, served.family) == ("llama-2-13b-chat", "chat", "llama-2")
    assert served.model == CATALOG.models["llama-2-13b-chat"]
    assert served.weights == "meta-llama/Llama-2-13b-chat-hf"
    assert served.chat_template == ROOT / "models/templates/llama-2.jinja"
    assert (served.max_replicas, served.gpus, served.policy) == (1, 0, "prefix_affinity")


def test_a_hub_id_finds_its_catalogue_model(tmp_path: Path) -> None:
    assert only(tmp_path, "model: meta-llama/llama-2-13B-chat-hf").id == "llama-2-13b-chat"


def test_embedded_weights_are_found_beside_the_catalogue(tmp_path: Path) -> None:
    assert Path(only(tmp_path, "model: pebble-code").weights) == ROOT / "models/pebble/pebble-code"


@pytest.mark.parametrize("source", ["folder", "hub"])
def test_a_model_outside_the_catalogue_takes_three_lines(tmp_path: Path, source: str) -> None:
    model = f"./{FINE_TUNE}" if source == "folder" else f"sorskoot/{FINE_TUNE}"
    file = write(tmp_path, f"models:\n  - model: {model}\n    gpus: 2\n")
    if source == "folder":
        (tmp_path / FINE_TUNE / "config.json").write_text('{"max_position_embeddings": 8192}')
    (served,) = fleet.load(file, CATALOG).served
    assert served.id == "sorskootllm-v2-13b-instruct"
    assert (served.family, served.model.version, served.model.size) == ("sorskootllm", "2", "13b")
    assert (served.variant, served.gpus) == ("instruct", 2)
    assert served.capabilities == {"chat", "completion"}
    assert served.model.chat == Chat(), "the template comes with the weights"
    assert served.chat_template is None
    assert served.weights == (str(tmp_path / FINE_TUNE) if source == "folder" else model)
    assert served.context == (8192 if source == "folder" else None)


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"max_position_embeddings": "many"}', '{"max_position_embeddings": 0}', "{}"]
)
def test_an_unreadable_context_is_unknown(tmp_path: Path, config: str) -> None:
    file = write(tmp_path, "models:\n  - model: ./x-chat\n")
    (tmp_path / "x-chat" / "config.json").write_text(config)
    assert fleet.load(file, CATALOG).served[0].context is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model: org/tune-7b\nvariant: chat", {"variant": "chat", "size": "7b"}),
        ("model: org/tune-7b-chat\nvariant: base", {"variant": "base"}),
        ("model: org/tune-chat\nsize: 9b\nversion: '4'\ncontext: 99", {"size": "9b", "version": "4", "context": 99}),
        ("model: org/tune-code\nspecialty: instruct", {"variant": "code", "specialty": "instruct"}),
        ("model: llama-2-7b\ncontext: 99\nsize: 6b", {"context": 99, "size": "6b", "variant": "base"}),
        ("model: llama-2-7b\nvariant: chat", {"variant": "chat", "specialty": None}),
        ("model: code-llama-7b\nspecialty: python", {"variant": "code", "specialty": "python"}),
        ("model: code-llama-7b-instruct\nvariant: chat", {"variant": "chat", "specialty": None}),
    ],
)
def test_an_entry_overrides_the_catalogue_and_the_name(tmp_path: Path, entry: str, expected: dict[str, object]) -> None:
    model = only(tmp_path, entry).model
    assert {key: getattr(model, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("entry", "capabilities"),
    [
        ("model: llama-2-7b", {"completion"}),
        ("model: llama-2-7b\nchat_template: ./custom.jinja", {"completion", "chat"}),
        ("model: llama-2-7b\nvariant: chat", {"completion", "chat"}),
        ("model: llama-2-7b-chat\nvariant: base", {"completion"}),
        ("model: llama-2-7b-chat\nvariant: chat", {"completion", "chat"}),
        ("model: code-llama-34b\nspecialty: instruct", {"completion", "chat"}),
        ("model: code-llama-7b-instruct\nspecialty: python", {"completion", "infill"}),
        ("model: code-llama-7b-instruct", {"completion", "chat", "infill"}),
        ("model: org/tune-code-instruct", {"completion", "chat"}),
        ("model: org/tune-code", {"completion"}),
        ("model: org/tune-code\ninfill: {prompt: '<P>{prefix}<S>{suffix}<M>'}", {"completion", "infill"}),
        ("model: org/tune-base", {"completion"}),
        ("model: BAAI/bge-small-en-v1.5", {"embedding"}),
        ("model: BAAI/bge-small-en-v1.5\nchat_template: ./custom.jinja", {"embedding"}),
    ],
)
def test_capabilities_follow_from_variant_and_specialty(tmp_path: Path, entry: str, capabilities: set[str]) -> None:
    assert only(tmp_path, entry).capabilities == capabilities


def test_overriding_with_equal_values_changes_nothing(tmp_path: Path) -> None:
    entry = "model: code-llama-7b-instruct\nvariant: code\nspecialty: instruct"
    assert only(tmp_path, entry).model == CATALOG.models["code-llama-7b-instruct"]


# Parsers of models outside of the catalogue

HERMES = '<tool_call>{"name": {{ name }}}</tool_call>'
SWITCHED = HERMES + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"


def weights_with(folder: Path, template: str | None, network: str = "Qwen3ForCausalLM") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [network]}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


PARSED = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "reasoning_parser": "qwen3"}


@pytest.mark.parametrize(
    ("template", "entry", "engine"),
    [
        (SWITCHED, "model: ./tune-chat", PARSED),
        (HERMES, "model: ./tune-chat", {key: PARSED[key] for key in ("enable_auto_tool_choice", "tool_call_parser")}),
        (None, "model: ./tune-chat", {}),
        # What the fleet file says stays.
        (SWITCHED, "model: ./tune-chat\nengine: {reasoning_parser: null}", {**PARSED, "reasoning_parser": None}),
        (SWITCHED, "model: ./tune-chat\nengine: {tool_call_parser: xlam}", {**PARSED, "tool_call_parser": "xlam"}),
        (
            SWITCHED,
            "model: ./tune-chat\nengine: {tool_call_parser: null}",
            {"tool_call_parser": None, "reasoning_parser": "qwen3"},
        ),
        (
            SWITCHED,
            "model: ./tune-chat\nengine: {enable_auto_tool_choice: false}",
            {**PARSED, "enable_auto_tool_choice": False},
        ),
        # Its own template is not what renders conversations.
        (SWITCHED, "model: ./tune-chat\nchat_template: ./empty.jinja", {}),
        # None for what does not converse, or runs elsewhere.
        (SWITCHED, "model: ./tune-base", {}),
        (SWITCHED, 'model: ./tune-chat\naddresses: ["engines:8000"]', {}),
    ],
)
def test_parsers_follow_from_the_files_of_a_model(
    tmp_path: Path, template: str | None, entry: str, engine: dict[str, object]
) -> None:
    for name in ("tune-chat", "tune-base"):
        weights_with(tmp_path / name, template)
    assert only(tmp_path, entry).engine == engine


def test_the_choice_of_parsers_is_explained(tmp_path: Path) -> None:
    weights_with(tmp_path / "tune-chat", SWITCHED)
    chosen = only(tmp_path, "model: ./tune-chat").parser_choice
    assert chosen and chosen.startswith("tool_call_parser hermes (by the chat template) and reasoning_parser qwen3")
    given = only(tmp_path, "model: ./tune-chat\nengine: {tool_call_parser: xlam}").parser_choice
    assert given and given.startswith("tool_call_parser as the fleet file says; otherwise ")
    remote = only(tmp_path, "model: org/tune-chat").parser_choice
    assert remote and "'roundhouse pull' fetches the files" in remote
    assert only(tmp_path, "model: qwen3-8b").parser_choice is None
    assert only(tmp_path, "model: ./tune-base").parser_choice is None


def test_a_folder_of_the_same_name_as_a_repository_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights_with(tmp_path / "org" / "tune-chat", SWITCHED)
    monkeypatch.chdir(tmp_path)
    assert only(tmp_path, "model: org/tune-chat").engine == {}


def test_the_family_falls_back_to_the_id(tmp_path: Path) -> None:
    served = only(tmp_path, "model: org/___\nid: mine\nvariant: chat")
    assert (served.id, served.family) == ("mine", "mine")
    assert only(tmp_path, "model: pebble-chat\nfamily: stones").family == "stones"


# Pulled weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LLAMA = "meta-llama/Llama-2-70b-chat-hf"


def pulled(folder: Path, repository: str, revision: str | None = COMMIT) -> Path:
    """The directory of a finished pull that consists of a config.json alone."""
    directory = folder / "store" / repository
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"max_position_embeddings": 8192}')
    known = Manifest(model="x", repository=repository, revision=revision, source="", made_by="", files={})
    manifest.write(directory, known)
    return directory


def from_store(folder: Path, entry: str) -> ServedModel:
    return fleet.load(write(folder, f"models:\n  - {entry}\n"), CATALOG, folder / "store").served[0]


@pytest.mark.parametrize("revision", [COMMIT, None])
@pytest.mark.parametrize("repository", [LLAMA, "org/tune-chat"])
def test_pulled_weights_are_served(tmp_path: Path, repository: str, revision: str | None) -> None:
    directory = pulled(tmp_path, repository, revision)
    served = from_store(tmp_path, f"model: {repository}")
    assert served.weights == str(directory)
    assert served.model.hub == repository
    if repository != LLAMA:
        assert served.context == 8192, "read from config.json"


@pytest.mark.parametrize("entry", ["model: llama-2-70b-chat", "model: org/tune-chat"])
def test_weights_that_were_not_pulled_come_from_the_hub(tmp_path: Path, entry: str) -> None:
    directory = pulled(tmp_path, LLAMA)
    (directory / "roundhouse-manifest.json").rename(directory / "roundhouse-manifest.json.not-yet")
    served = from_store(tmp_path, entry)
    assert served.weights == served.model.hub


def test_weights_named_by_an_entry_go_before_pulled_ones(tmp_path: Path) -> None:
    pulled(tmp_path, LLAMA)
    (tmp_path / "mine").mkdir()
    assert from_store(tmp_path, f"{{model: {LLAMA}, weights: ./mine}}").weights == str(tmp_path / "mine")
    assert from_store(tmp_path, "model: pebble-chat").weights == only(tmp_path, "model: pebble-chat").weights


@pytest.mark.parametrize(("revision", "is_refused"), [("f" * 40, True), (COMMIT, False), ("main", False)])
def test_pulled_weights_of_another_revision_are_refused(tmp_path: Path, revision: str, is_refused: bool) -> None:
    directory = pulled(tmp_path, LLAMA)
    entry = f"{{model: {LLAMA}, engine: {{revision: {revision}}}}}"
    if not is_refused:
        assert from_store(tmp_path, entry).weights == str(directory)
        return
    with pytest.raises(ConfigError, match=f"{directory} holds revision {COMMIT}, but {revision} is configured"):
        from_store(tmp_path, entry)


def test_a_broken_manifest_is_reported(tmp_path: Path) -> None:
    directory = pulled(tmp_path, LLAMA)
    (directory / "roundhouse-manifest.json").write_text("{")
    with pytest.raises(
        ConfigError, match=r"roundhouse-manifest\.json is not a valid manifest: .*; pull the model again"
    ):
        from_store(tmp_path, f"model: {LLAMA}")


def test_paths_are_relative_to_the_fleet_file(tmp_path: Path) -> None:
    entry = (
        "model: llama-2-7b-chat\nweights: ./here\nchat_template: ./custom.jinja\nadapters: [{id: tone, path: ./tone}]"
    )
    served = only(tmp_path, entry)
    assert (served.weights, served.chat_template) == (str(tmp_path / "here"), tmp_path / "custom.jinja")
    assert [(adapter.id, adapter.path) for adapter in served.adapters] == [("tone", str(tmp_path / "tone"))]


def test_a_path_may_start_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tune-chat").mkdir()
    assert only(tmp_path, "model: ~/tune-chat").weights == str(tmp_path / "tune-chat")


@pytest.mark.parametrize(
    ("engine", "context"),
    [("{}", 4096), ("{max_model_len: 512}", 512), ("{max_model_len: 0}", 4096), ("{max_model_len: auto}", 4096)],
)
def test_max_model_len_sets_the_context(tmp_path: Path, engine: str, context: int) -> None:
    assert only(tmp_path, f"model: llama-2-7b\nengine: {engine}").context == context


def test_an_entrys_settings_override_those_of_the_file(tmp_path: Path) -> None:
    text = """\
models:
  - model: pebble-chat
    engine: {dtype: half}
    env: {ONE: 1}
  - model: pebble-base
engine: {dtype: auto, seed: 7}
env: {ONE: 0, TWO: x}
"""
    first, second = load(tmp_path, text).served
    assert (first.engine, second.engine) == ({"dtype": "half", "seed": 7}, {"dtype": "auto", "seed": 7})
    assert (first.env, second.env) == ({"ONE": "1", "TWO": "x"}, {"ONE": "0", "TWO": "x"})


def test_aliases_defaults_and_replicas(tmp_path: Path) -> None:
    text = """\
models:
  - model: pebble-chat
    min_replicas: 2
    aliases: [talker]
    adapters: [{id: tone, path: ./tone}]
  - model: pebble-base
aliases: {voice: tone}
defaults: {chat: pebble-chat}
extra_fields: [min_tokens]
unknown_fields: refuse
"""
    loaded = load(tmp_path, text)
    assert loaded.aliases == {"talker": "pebble-chat", "voice": "tone"}
    assert loaded.defaults == {"chat": "pebble-chat"}
    assert loaded.extra_fields == {"min_tokens"}
    assert loaded.refuse_unknown_fields
    assert loaded["pebble-base"] is loaded.served[1]
    assert [(served.id, number) for served, number in loaded.replicas()] == [
        ("pebble-chat", 0), ("pebble-chat", 1), ("pebble-base", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("n: 0", "request_bounds.n: Input should be greater than or equal to 1 (found 0)"),
        ("tools: many", "request_bounds.tools: Input should be a valid integer"),
        ("promts: 4", "request_bounds.promts: unknown key"),
        ("sequences: 2000000", "request_bounds.sequences: Input should be less than or equal to 1048576"),
    ],
)
def test_request_bounds_are_checked(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"models: [{{model: pebble-chat}}]\nrequest_bounds:\n  stop: 4\n  {text}\n")
    (found,) = caught.value.problems
    assert f":4: {problem}" in found


def test_request_bounds_are_those_of_every_model(tmp_path: Path) -> None:
    loaded = load(tmp_path, "models: [{model: pebble-chat}]\nrequest_bounds: {n: 4, tools: 1000}\n")
    bounds = loaded.request_bounds
    assert (bounds.n, bounds.tools, bounds.prompts) == (4, 1000, 128)
    assert loaded.served[0].request_bounds == bounds


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/fleets").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_fleet_files_are_valid(path: Path) -> None:
    assert fleet.load(path, CATALOG).served
    assert path.read_text().startswith("# "), "says what it is for"


def test_a_missing_fleet_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        fleet.load(tmp_path / "gone.yaml", CATALOG)


@pytest.mark.parametrize(
    ("entry", "context"),
    [
        ("model: phi-3-mini-128k-instruct", 4096),  # LongRoPE opens at its original length
        ("model: phi-3-mini-128k-instruct\nengine: {max_model_len: 65536}", 65536),
        ("model: phi-3-mini-4k-instruct", 4096),
        ("model: phi-3-mini-4k-instruct\nengine: {disable_sliding_window: true}", 2047),
        ("model: mistral-7b-v0.1", 32768),
        ("model: mistral-7b-v0.1\nengine: {disable_sliding_window: true, max_model_len: 2048}", 2048),
        ("model: code-llama-7b", 16384),
        ("model: code-llama-7b\nengine: {max_model_len: 65536}", 65536),
        ("model: qwen3-8b\nengine: {max_model_len: 131072, hf_overrides: {rope_theta: 1}}", 131072),
        ("model: llama-2-7b\nengine: {max_model_len: 5000}\nenv: {VLLM_ALLOW_LONG_MAX_MODEL_LEN: 1}", 5000),
    ],
)
def test_the_context_follows_from_shape_and_settings(tmp_path: Path, entry: str, context: int) -> None:
    assert only(tmp_path, entry).context == context


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("model: llama-2-7b\nengine: {max_model_len: 5000}", "5000 is more than the 4096 tokens of 'llama-2-7b'"),
        ("model: code-llama-7b\nengine: {max_model_len: 200000}", "more than the 100000 tokens .* support no more"),
        ("model: phi-3-mini-128k-instruct\nengine: {max_model_len: 200000}", "more than the 131072 tokens"),
    ],
)
def test_a_context_that_vllm_would_refuse_is_refused(tmp_path: Path, entry: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"fleet.yaml:\d+: models\[0\].engine: max_model_len .*{problem}"):
        only(tmp_path, entry)


@each(
    ("entry", "runner"),
    [
        ("model: ./my-embedder\nvariant: embedding", "pooling"),
        ("model: pebble-base\nvariant: embedding", "pooling"),
        ("model: bge-reranker-v2-m3", "pooling"),
        ("model: ./my-embedder\nvariant: embedding\nengine: {runner: auto}", "auto"),
        ("model: pebble-base", None),
    ],
)
def test_a_model_that_pools_is_not_started_as_one_that_generates(
    tmp_path: Path, entry: str, runner: str | None
) -> None:
    assert only(tmp_path, entry).engine.get("runner") == runner


def test_optional_flags_of_file_and_entry_are_combined(tmp_path: Path) -> None:
    text = """
models:
  - {model: pebble-chat, engine: {one: 1}, optional_flags: [one]}
  - {model: pebble-base}
engine: {two: 2}
optional_flags: [two]
"""
    first, second = fleet.load(write(tmp_path, text), CATALOG).served
    assert first.optional_flags == {"one", "two"}
    assert second.optional_flags == {"two"}


def test_files_of_engines_elsewhere_are_looked_for_only_where_such_an_engine_is_started(tmp_path: Path) -> None:
    paths = "weights: /nowhere/weights, chat_template: /nowhere/x.jinja, adapters: [{id: a, path: /nowhere/a}]"
    text = f"models: [{{model: pebble-chat, {paths}, addresses: ['engines:8000']}}]\n"
    file = write(tmp_path, text)
    (served,) = fleet.load(file, CATALOG, here="another").served
    assert (served.weights, str(served.chat_template), served.adapters[0].path) == (
        "/nowhere/weights", "/nowhere/x.jinja", "/nowhere/a",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="weights: /nowhere/weights does not exist"):
        fleet.load(file, CATALOG, here="pebble-chat")


def test_an_engine_that_is_started_for_gateways_elsewhere_gets_its_parsers(tmp_path: Path) -> None:
    file = write(tmp_path, "models: [{model: org/tune-chat, addresses: ['engines:8000']}]\n")
    (elsewhere,), (here,) = fleet.load(file, CATALOG).served, fleet.load(file, CATALOG, here="tune-chat").served
    assert (elsewhere.addresses, elsewhere.parser_choice) == (("engines:8000",), None)
    assert here.addresses == () and here.parser_choice
