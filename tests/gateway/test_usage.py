"""`GET /v1/usage`: a tenant sees its own, the first key sees all, and bad questions are refused by name."""

from pathlib import Path

from service.auth.keys import ALL_GROUPS, FIRST, Key, Keys, digest
from service.observability.ledger_file import FILE, LedgerFile
from tests.conftest import Start
from tests.observability.test_ledger import line
from tests.relay.test_ledger import folder, written
from tests.support.exchanges import CHAT
from tests.support.waiting import until

SINCE = {"since": "2020-01-01"}
KEYS: Keys = {
    digest(b"the-first-key-of-all"): FIRST,
    digest(b"the-key-of-tenant-t-"): Key("t-1", "t"),
    digest(b"the-key-of-tenant-u-"): Key("first", "u", endpoints=ALL_GROUPS),  # its name makes it no operator
    digest(b"the-key-of-a-proxy--"): Key("proxy-1", "p", proxy=True),
}
OPERATOR, T, U, PROXY = (
    {"authorization": f"Bearer {key}"}
    for key in ("the-first-key-of-all", "the-key-of-tenant-t-", "the-key-of-tenant-u-", "the-key-of-a-proxy--")
)


def filled(tmp_path: Path) -> Path:
    path = folder(tmp_path)
    file = LedgerFile(path)
    file.write([line("a"), line("b"), line("c", tenant="u", completion=100)])
    file.close()
    return path


async def test_who_sees_whose_usage(start: Start, tmp_path: Path) -> None:
    fleet = "models: [{model: pebble-chat}]\ntenants: {t: {}, u: {}}"
    gateway = await start(fleet, keys=KEYS, usage_dir=filled(tmp_path))

    async def seen(headers: dict[str, str], **query: str) -> list[tuple[str, int]] | str:
        answer = await gateway.http.get("/v1/usage", headers=headers, params={**SINCE, "by": "tenant", **query})
        if answer.status_code != 200:
            return str(answer.json()["error"]["code"])
        return [(row["tenant"], row["total_tokens"]) for row in answer.json()["data"]]

    assert await seen(OPERATOR) == [("t", 30), ("u", 110)]
    assert await seen(OPERATOR, tenant="u") == [("u", 110)]
    assert await seen(OPERATOR, tenant="nobody") == []
    assert await seen(T) == await seen(T, tenant="t") == [("t", 30)]
    assert await seen(U) == [("u", 110)]
    assert await seen(T, tenant="u") == "insufficient_scope"
    assert await seen(PROXY) == []
    assert await seen({**PROXY, "x-roundhouse-tenant": "u"}) == [("u", 110)]
    assert await seen({**PROXY, "x-roundhouse-tenant": "u"}, tenant="t") == "insufficient_scope"
    assert await seen({**T, "x-roundhouse-tenant": "u"}) == "insufficient_scope"


async def test_a_request_is_in_the_usage_with_its_key(start: Start, tmp_path: Path) -> None:
    gateway = await start(keys=KEYS, usage_dir=folder(tmp_path))
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=T)).status_code == 200
    await until(lambda: len(written(folder(tmp_path))) == 1, "its line")
    answer = await gateway.http.get("/v1/usage", headers=T, params={"by": "key,model,endpoint"})
    (row,) = answer.json()["data"]
    assert (row["key"], row["model"], row["endpoint"], row["requests"]) == ("t-1", "pebble-chat", CHAT.path, 1)
    assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"] > 0
    assert row["estimated_tokens"] == row["refused"] == 0
    assert answer.json()["by"] == ["key", "model", "endpoint"]


async def test_bad_questions_name_what_is_wrong(start: Start, tmp_path: Path) -> None:
    gateway = await start(usage_dir=filled(tmp_path))
    for query, param, text in (
        ("by=tenants", "by", "tenant, key, model"),
        ("by=", "by", "one or more of"),
        ("by=day;drop table lines", "by", "one or more of"),
        ("since=yesterday", "since", "2026-11-01"),
        ("since=0d", "since", "7d"),
        ("until=2026-11-01", "until", "by, since, tenant"),
    ):
        answer = await gateway.http.get(f"/v1/usage?{query}")
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)
        assert text in error["message"]


async def test_without_a_ledger_it_says_so(start: Start) -> None:
    answer = await (await start()).http.get("/v1/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert "ROUNDHOUSE_USAGE_DIR" in answer.json()["error"]["message"]


async def test_a_damaged_ledger_is_a_503_and_requests_go_on(start: Start, tmp_path: Path) -> None:
    (folder(tmp_path) / FILE).write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    gateway = await start(usage_dir=folder(tmp_path))
    answer = await gateway.http.get("/v1/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert "sqlite" not in answer.text and answer.headers["retry-after"]
    assert (await gateway.http.post(CHAT.path, json=CHAT.body())).status_code == 200
    await until(lambda: gateway.sample("roundhouse_usage_write_failures_total") > 0, "the failure in the metrics")
