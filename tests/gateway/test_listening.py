"""Where the service may listen, with keys and without."""

import pytest

from service.auth.keys import FIRST, Keys
from service.config.strict_yaml import ConfigError
from service.fleet.schema import Auth
from service.gateway.listening import check_access, describe

SOME: Keys = {b"x": FIRST}


@pytest.mark.parametrize(
    ("host", "auth", "keys"),
    [
        ("127.0.0.1", "keys", None),
        ("127.8.8.8", "keys", None),
        ("::1", "keys", None),
        ("LOCALHOST", "keys", None),
        ("0.0.0.0", "keys", SOME),
        ("::", "keys", {}),
        ("0.0.0.0", "none", None),
        ("10.0.0.1", "none", None),
    ],
)
def test_it_may_listen(host: str, auth: Auth, keys: Keys | None) -> None:
    check_access(host, auth, keys)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fd00::1", "gateway.example", "", "127.0.0.1.evil", "0"])
def test_without_a_key_other_addresses_are_refused_with_what_mends_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_access(host, "keys", None)
    first, export, others = caught.value.problems
    assert first.startswith(host) and "no API key is set" in first
    assert export.startswith('  export ROUNDHOUSE_API_KEY="$(python3 -c ')
    assert "127.0.0.1" in others and "'auth: none'" in others


def test_a_fleet_without_keys_and_keys_contradict_each_other() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ConfigError, match="'auth: none', and there are API keys"):
            check_access(host, "none", SOME)


def test_who_may_use_it_is_said_in_a_line() -> None:
    assert describe("keys", SOME) == "API keys: 1; every request but a probe needs one."
    assert "'auth: none'" in describe("none", None)
    assert "loopback addresses only" in describe("keys", None)
