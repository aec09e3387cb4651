"""Nothing of one tenant is visible to another: in lists, ids, errors, metrics, or what is stored or replayed."""

from pathlib import Path

from service.auth.keys import FIRST, Key, digest
from tests.conftest import Start
from tests.support.exchanges import CASES, CHAT, RESPONSE
from tests.support.gateways import HOUSE

A, B, OPERATOR = "rh_key-of-a-0123456789", "rh_key-of-b-0123456789", "rh_first-key-0123456789"
# The canary: it stands in everything that a client can name or say.
SECRET = "cormorant"
FLEET = HOUSE + f"\ntenants: {{{SECRET}-tenant: {{}}, b: {{}}}}\n"
MODELS = {"a": ("pebble-chat", "pebble-base", "pebble-code", "embedder"), "b": ("pebble-chat", "pebble-instruct")}
KEYS = {
    digest(A.encode()): Key(f"{SECRET}-key", f"{SECRET}-tenant", models=frozenset(MODELS["a"])),
    digest(B.encode()): Key("b-1", "b", models=frozenset(MODELS["b"])),
    digest(OPERATOR.encode()): FIRST,
}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_tenant_sees_nothing_of_another(start: Start, tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir(mode=0o700)
    gateway = await start(FLEET, keys=KEYS, responses_dir=tmp_path / "stored")
    names = {"Idempotency-Key": f"{SECRET}-1", "x-roundhouse-session": f"{SECRET}-s", "x-request-id": f"{SECRET}-id"}
    mine = bearer(A) | names | {"user-agent": SECRET}
    text = {
        "messages": [{"role": "user", "content": SECRET}],
        "user": SECRET,
        "prompt_cache_key": SECRET,
        "cache_salt": SECRET,
    }
    assert (await gateway.http.post(CHAT.path, json=CHAT.body() | text, headers=mine)).status_code == 200
    for case in CASES:
        assert (await gateway.http.post(case.path, json=case.body(), headers=bearer(A))).status_code == 200
    stored = await gateway.http.post(RESPONSE.path, json=RESPONSE.body(input=SECRET, store=True), headers=bearer(A))
    id = stored.json()["id"]
    # Its errors too: models and fields that do not exist.
    for fields in ({"model": f"{SECRET}-model"}, {f"{SECRET}_field": 1}, {"temperature": SECRET}):
        await gateway.http.post(CHAT.path, json=CHAT.body() | fields, headers=bearer(A))
    sent = len(gateway.seen)

    theirs = bearer(B)
    own, unknown = f"/v1/responses/{id}", "/v1/responses/resp_unknown"
    models = ("/v1/models", "/v1/models/pebble-chat", "/v1/models/pebble-base", "/v1/models/nothing")
    paths = ("/", *models, "/metrics", "/version", own, unknown, f"{own}/input_items", "/v1/responses")
    answers = {path: await gateway.http.get(path, headers=theirs) for path in paths}
    # An id of another is one that does not exist, to the letter.
    assert answers[own].status_code == 404
    assert answers[own].text.replace(id, "ID") == answers[unknown].text.replace("resp_unknown", "ID")
    assert answers["/metrics"].status_code == 403
    page = (await gateway.http.get("/metrics", headers=bearer(OPERATOR))).text
    assert SECRET not in page.replace(f'tenant="{SECRET}-tenant"', ""), (
        "the operator sees the names of tenants, no more"
    )
    seen = [*answers.values()]
    seen.append(await gateway.http.delete(f"/v1/responses/{id}", headers=theirs))
    seen.append(await gateway.http.post(f"/v1/responses/{id}/cancel", headers=theirs))
    more = {"previous_response_id": id}
    seen.append(await gateway.http.post(RESPONSE.path, json=RESPONSE.body(**more), headers=theirs))
    assert len(gateway.seen) == sent, "no engine was asked for any of it"
    replayed = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=theirs | {"Idempotency-Key": f"{SECRET}-1"})
    assert replayed.status_code == 200
    assert len(gateway.seen) == sent + 1, "its own answer, not the other's"
    seen.append(replayed)
    assert not [answer.text for answer in seen if SECRET in f"{answer.text} {answer.headers}"]

    assert (await gateway.http.get(own, headers=bearer(A))).status_code == 200
    assert not [line for line in gateway.output if f'"{SECRET}"' in line], "prompts and fields are in no log"
