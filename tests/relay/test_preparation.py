"""What is the same for many requests is worked out once, and only that."""

from pathlib import Path

import pytest

from service.auth.keys import Caller
from service.auth.tenants import Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.protocol.generation import PATHS, Requirements
from service.protocol.requests import Message
from service.relay.preparation import Preparation
from service.routing import resolve as rules
from service.transport.pool import ConnectionPool
from service.upstreams.upstreams import Upstreams
from tests.support import fleets
from tests.support.fleets import CATALOG

ALL, SOME = Caller(Tenant("a")), Caller(Tenant("a"), frozenset({"pebble-base"}))
FLEET = "models: [{model: pebble-chat, aliases: [assistant]}, {model: pebble-base}]"


@pytest.fixture
def preparation(tmp_path: Path) -> Preparation:
    fleet, settings = fleets.load(tmp_path, FLEET), Settings(run_dir=tmp_path)
    upstreams = Upstreams(fleet, settings, ConnectionPool(), lambda: 0.0)
    return Preparation(fleet, CATALOG, upstreams, settings, b"secret")


USER = (Message("user"),)


def resolved(preparation: Preparation, model: str, requirements: Requirements, caller: Caller = ALL) -> rules.Target:
    endpoint = PATHS["/v1/chat/completions" if requirements.kind == "chat" else "/v1/completions"]
    prompt = b'"messages": [{"role": "user", "content": ""}]' if requirements.kind == "chat" else b'"prompt": ""'
    parsed = preparation.parse(endpoint, b'{"model": "%b", %b}' % (model.encode(), prompt))
    return preparation.resolve(parsed.request, requirements, caller)


def test_a_model_that_is_asked_for_by_its_id_is_found_once(preparation: Preparation) -> None:
    first, second = (resolved(preparation, "pebble-chat", Requirements("chat", said)) for said in (USER, USER * 2))
    assert first is second
    assert (first.name, first.reason) == ("pebble-chat", "id")


def test_any_other_name_is_resolved_for_each_request(preparation: Preparation) -> None:
    for name in ("assistant", "auto", "chat", "pebble"):
        one, another = (resolved(preparation, name, Requirements("chat")) for _ in range(2))
        assert one is not another


def test_what_is_found_is_not_for_other_requests_or_callers(preparation: Preparation) -> None:
    assert resolved(preparation, "pebble-base", Requirements("completion")).name == "pebble-base"
    with pytest.raises(ApiError, match="does not support image input"):
        resolved(preparation, "pebble-chat", Requirements("chat", vision=True))
    assert resolved(preparation, "pebble-chat", Requirements("chat")).name == "pebble-chat"
    with pytest.raises(ApiError, match="No model 'pebble-chat' is served"):
        resolved(preparation, "pebble-chat", Requirements("chat"), SOME)
    with pytest.raises(ApiError, match="does not support image input"):
        resolved(preparation, "pebble-chat", Requirements("chat", vision=True))
