"""Aliases that several models share by weight, and the fallbacks of models, as the fleet file says them."""

from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.fleet.fleet import Fleet
from service.fleet.reload import needs_restart
from tests.support import fleets
from tests.support.each import each

HEAD = "models:\n"
CHAT = "  - {model: pebble-chat, aliases: [support]"
INSTRUCT = "  - {model: pebble-instruct, aliases: [support]"
SHARED = f"{HEAD}{CHAT}, weight: 90}}\n{INSTRUCT}, weight: 10}}\n  - {{model: pebble-base}}\n"
GUARDED = """
  - {model: llama-guard-3-1b, addresses: ["a:1"]}
guardrails: {safety: {model: llama-guard-3-1b}}
"""


def chain(text: str, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    return {one.id: one.fallback for one in fleets.load(tmp_path, text).served}


@pytest.fixture
def shared(tmp_path: Path) -> Fleet:
    return fleets.load(tmp_path, SHARED)


def test_models_share_an_alias_by_their_weights(shared: Fleet) -> None:
    assert shared.shares == {"support": {"pebble-chat": 90, "pebble-instruct": 10}}
    assert shared.aliases == {"support": "pebble-chat"}
    assert shared.ids_of(["support", "pebble-base"]) == {"pebble-chat", "pebble-instruct", "pebble-base"}


def test_a_caller_gets_of_a_shared_alias_what_it_may_use(tmp_path: Path, shared: Fleet) -> None:
    assert shared.restricted(["support"]).shares == shared.shares
    one = shared.restricted(["pebble-instruct"])
    assert (one.aliases, one.shares) == ({"support": "pebble-instruct"}, {"support": {"pebble-instruct": 10}})
    assert shared.restricted(["pebble-base"]).aliases == {}
    beside = fleets.load(tmp_path, SHARED.replace("weight: 10", "weight: 0"))
    assert beside.restricted(["pebble-instruct"]).aliases == {}, "it has no part of the requests to the alias"


def test_weights_and_fallbacks_change_while_engines_run(tmp_path: Path, shared: Fleet) -> None:
    other = SHARED.replace("90", "5").replace("pebble-base}", "pebble-base, fallback: [pebble-chat]}")
    assert needs_restart(shared, fleets.load(tmp_path, other)) == []


def test_the_fallbacks_of_fallbacks_come_last(tmp_path: Path) -> None:
    text = """
models:
  - {model: pebble-chat, fallback: [pebble-instruct, pebble-base]}
  - {model: pebble-instruct, fallback: [pebble-code, pebble-base]}
  - {model: pebble-code}
  - {model: pebble-base}
"""
    assert chain(text, tmp_path) == {
        "pebble-chat": ("pebble-instruct", "pebble-base", "pebble-code"),
        "pebble-instruct": ("pebble-code", "pebble-base"), "pebble-code": (), "pebble-base": (),
    }  # fmt: skip


TUNED = f"""{HEAD}  - model: pebble-chat
    fallback: [old]
    adapters:
      - {{id: old, path: ./old, aliases: [desk, voice], weight: 75, fallback: [pebble-instruct]}}
      - {{id: new, path: ./new, aliases: [desk], weight: 25, fallback: [old]}}
  - {{model: pebble-instruct, aliases: [desk], weight: 0}}
"""


def test_adapters_share_an_alias_and_fall_back_as_models_do(tmp_path: Path) -> None:
    fleet = fleets.load(tmp_path, TUNED)
    assert fleet.shares == {"desk": {"old": 75, "new": 25, "pebble-instruct": 0}}
    assert fleet.aliases == {"desk": "old", "voice": "old"}
    assert [fleet.weight(id) for id in ("old", "new", "pebble-instruct", "pebble-chat")] == [75, 25, 0, None]
    assert {one.id: one.fallback for one in fleet["pebble-chat"].adapters} == {
        "old": ("pebble-instruct",), "new": ("old", "pebble-instruct"),
    }  # fmt: skip
    assert chain(TUNED, tmp_path)["pebble-chat"] == ("old", "pebble-instruct")
    assert fleet.restricted(["new"]).shares == {"desk": {"new": 25}}
    assert needs_restart(fleet, fleets.load(tmp_path, TUNED.replace("75", "5"))) == []


SUM = "the weights of the models under the alias 'support' sum to 0"
MISTAKES = [
    (f"{HEAD}{CHAT}}}\n{INSTRUCT}}}\n", "3: models[1].aliases: 'support' is already the id or alias of another model; "
     "models that share an alias each have a 'weight'"),
    (f"{HEAD}{CHAT}, weight: 5}}\n{INSTRUCT}}}\n", "3: models[1].aliases: 'support' is already"),
    (f"{HEAD}{CHAT}, weight: 0}}\n{INSTRUCT}, weight: 0}}\n", f"2: models[0].weight: {SUM}"),
    (f"{HEAD}{CHAT}, weight: 0}}\n", f"2: models[0].weight: {SUM}"),
    (f"{HEAD}{CHAT}, weight: -1}}\n", "2: models[0].weight: Input should be greater than or equal to 0"),
    (f"{SHARED}aliases: {{support: pebble-base}}\n", "5: aliases.support: 'support' is already the id or alias"),
    (f"{HEAD}  - {{model: pebble-chat, fallback: [nobody]}}\n", "2: models[0].fallback[0]: 'nobody' is not the id of"),
    (f"{HEAD}  - {{model: pebble-chat, fallback: [pebble-chat]}}\n", "2: models[0].fallback[0]: "
     "'pebble-chat' cannot be its own fallback"),
    (f"{HEAD}  - {{model: pebble-chat, fallback: [pebble-base, pebble-base]}}\n  - {{model: pebble-base}}\n",
     "2: models[0].fallback[1]: 'pebble-base' is listed twice"),
    (f"{HEAD}  - {{model: pebble-chat, fallback: [pebble-base]}}\n  - {{model: pebble-base, fallback: [pebble-code]}}\n"
     "  - {model: pebble-code, fallback: [pebble-chat]}\n", "4: models[2].fallback: leads back to 'pebble-code'"),
    (f"{HEAD}  - {{model: pebble-chat, fallback: [pebble-base], guardrails: {{input: [safety]}}}}\n"
     f"  - {{model: pebble-base}}{GUARDED}", "2: models[0].fallback[0]: 'pebble-base' lacks guardrails of"),
    (TUNED.replace("[old]}", "[nobody]}"), "6: models[0].adapters[1].fallback[0]: 'nobody' is not the id of"),
    (TUNED.replace("[pebble-instruct]}", "[new]}"), "5: models[0].adapters[0].fallback: leads back to 'old' itself"),
    (TUNED.replace(" weight: 25,", ""), "6: models[0].adapters[1].aliases: 'desk' is already the id or alias"),
    (TUNED.replace("75", "0").replace("25", "0"), "5: models[0].adapters[0].weight: " + SUM.replace("support", "desk")),
]  # fmt: skip


@each(("text", "problem"), MISTAKES)
def test_a_mistake_names_file_line_and_key(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fleets.load(tmp_path, text)
    assert any(f"fleet.yaml:{problem}" in found for found in caught.value.problems), caught.value.problems
