"""The rows of the list of models, and what they must not show."""

from service.auth.keys import Key, digest
from service.gateway.model_list import anthropic_list
from tests.conftest import Start
from tests.fake_engine import FakeEngine, Fault
from tests.support.exchanges import CHAT
from tests.support.waiting import until


def test_an_empty_list_has_no_first_and_no_last() -> None:
    assert anthropic_list([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_clients_see_no_address_of_an_engine(start: Start) -> None:
    """Neither in rows of models, nor in headers, nor in errors; the operator's log line has it."""
    async with FakeEngine("pebble-chat").listen(0) as far, FakeEngine("pebble-base").listen(0) as wrong:
        places = [f"127.0.0.1:{far.port}", f"127.0.0.1:{wrong.port}"]
        gateway = await start(f"models: [{{model: pebble-chat, addresses: {places}}}]")
        gateway.expected_unseen = None
        gateway.engines.append(far)

        def states() -> list[str]:
            return [replica.state.condition if replica.state else "" for replica in gateway.replicas]

        await until(lambda: sorted(states()) == ["failed", "ready"], "one engine, and a wrong one")
        answers = [await gateway.http.get("/v1/models"), await gateway.post("/v1/route", {"model": "pebble-chat"})]
        answers.append(await gateway.post(CHAT.path, CHAT.body()))
        assert answers[-1].status_code == 200
        seen_as = answers[-1].headers["x-roundhouse-replica"]
        far.always = Fault(cut=0)
        answers.append(await gateway.post(CHAT.path, CHAT.body()))
        assert answers[-1].status_code == 502
        shown = "".join(answer.text + str(answer.headers) for answer in answers)
        assert "serves 'pebble-base' and not 'pebble-chat'" in shown
        assert not [part for part in ("127.0.0.1", str(far.port), str(wrong.port)) if part in shown]
        await gateway.settle()
        line = next(line for line in gateway.lines if line["status"] == 200 and line["replica"])
        assert line["replica"] == f"{seen_as}@127.0.0.1:{far.port}"


async def test_of_weights_and_fallbacks_a_key_sees_only_models_that_it_is_for(start: Start) -> None:
    keys = {digest(b"narrow"): Key("narrow", models=frozenset({"pebble-instruct"}))}
    fleet = """
models:
  - {model: pebble-chat, aliases: [support], weight: 90}
  - {model: pebble-instruct, aliases: [support], weight: 10, fallback: [pebble-base]}
  - {model: pebble-base}
"""
    gateway = await start(fleet, keys=keys)
    answer = await gateway.http.get("/v1/models", headers={"authorization": "Bearer narrow"})
    rows = {row["id"]: row for row in answer.json()["data"]}
    assert {"pebble-chat", "pebble-base"} & rows.keys() == set()
    assert (rows["support"]["alias_of"], rows["support"]["weights"]) == ("pebble-instruct", {"pebble-instruct": 10})
    assert "pebble-chat" not in answer.text and "pebble-base" not in answer.text
