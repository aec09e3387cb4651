"""What reaches an engine is a request of ours: no header of a client is in it, nor one of an engine in an answer."""

import json
from pathlib import Path

from tests.conftest import Start
from tests.fake_engine import FakeEngine
from tests.support.exchanges import CHAT, EXCHANGES, TALKING
from tests.support.gateways import HOUSE
from tests.support.waiting import until

# Headers that vLLM acts on, those of proxies, and those that carry what is not the engine's to know.
TRUSTED = {
    "X-Vllm-Priority": "-100",
    "X-data-parallel-rank": "1",
    "X-Session-ID": "of-another",
    "traceparent": f"00-{'a' * 32}-b7ad6b7169203331-01",
    "X-Request-Id": "prefix___decode_addr_10.0.0.9:1___",
    "Authorization": "Bearer rh_client-0123456789",
    "x-api-key": "rh_client-0123456789",
    "Cookie": "a=b",
    "X-Forwarded-For": "10.0.0.9",
    "Forwarded": "for=10.0.0.9",
    "Idempotency-Key": "i",
    "OpenAI-Organization": "o",
    "anthropic-beta": "b",
    "x-roundhouse-priority": "batch",
    "X-HTTP-Method-Override": "DELETE",
    "tracestate": "a=b",
    "baggage": "a=b",
}
OURS = {"host", "content-type", "content-length", "x-request-id"}
SHOWN = {
    "content-type",
    "content-length",
    "transfer-encoding",
    "cache-control",
    "date",
    "x-request-id",
    "request-id",
    "x-accel-buffering",
    "x-roundhouse-model",
    "x-roundhouse-replica",
    "x-roundhouse-route-reason",
    "x-roundhouse-ignored-fields",
}
KEY = "ek_0123456789abcdef"


async def test_no_header_of_a_client_reaches_an_engine_and_none_of_an_engine_a_client(start: Start) -> None:
    gateway = await start(HOUSE)
    for case, stream in EXCHANGES:
        response = await gateway.http.post(
            case.path, json=case.body(stream), headers=TRUSTED | {"Idempotency-Key": f"{case.name}{stream}"}
        )
        assert response.status_code == 200
        (seen,) = (seen for seen in gateway.seen if seen.headers["x-request-id"] == response.headers["x-request-id"])
        assert set(seen.headers) == OURS
        assert (seen.headers["host"], seen.headers["content-type"]) == ("localhost", "application/json")
        assert not set(response.headers) - SHOWN
        assert "uvicorn" not in str(response.headers)


async def test_the_key_of_engines_elsewhere_is_theirs_alone(start: Start, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat", key=KEY)
    async with engine.listen(tmp_path / "there.sock"):
        there = f"models: [{{model: pebble-chat, addresses: ['{tmp_path}/there.sock']}}]"
        gateway = await start(there, engine_key=KEY)
        gateway.engines.append(engine)
        await until(lambda: gateway.gateway.is_ready(), "the engine is found")
        shown = []
        for case in TALKING:
            for body in (case.body(), case.body(True), case.body(temperature=9)):
                response = await gateway.http.post(
                    case.path, json=body, headers={"Authorization": TRUSTED["Authorization"]}
                )
                shown.append(f"{response.headers}{response.text}")
        assert {seen.headers["authorization"] for seen in engine.requests} == {f"Bearer {KEY}"}
        engine.key = "another-0123456789"
        response = await gateway.http.post(CHAT.path, json=CHAT.body())
        assert response.status_code == 502, "a client's own key is not what is wrong"
        await until(lambda: not gateway.gateway.is_ready(), "the key is found to be wrong")
        for path in ("/v1/models", "/v1/models/pebble-chat", "/metrics", "/version"):
            shown.append((await gateway.http.get(path)).text)
        assert "ROUNDHOUSE_ENGINE_KEY" in shown[-3]
        shown += [*gateway.output, json.dumps(response.json())]
        assert not [text for text in shown if KEY in text or ("there.sock" in text and '"replica"' not in text)]
