"""What the fleet file says of sign-on, which mistakes it refuses, and which tenant a user is."""

from pathlib import Path
from typing import Any

import pytest

from service.auth.sign_on import SignOn, claim_at, describe, groups_of
from service.config.strict_yaml import ConfigError
from service.fleet.reload import needs_restart
from tests.support import fleets
from tests.support.each import each
from tests.support.gateways import ONE
from tests.support.issuers import NAME

TENANTS = "tenants: {acme: {}, guests: {}}\n"


def made(**members: Any) -> SignOn:
    return SignOn.model_validate({"issuer": NAME, "audience": "rh", "tenants": {"ml": "acme"}, **members})


def fleet_text(**members: str) -> str:
    """A fleet with a sign-on, a line of YAML for each member; the first of them is on the second line of it."""
    given = {"issuer": NAME, "audience": "rh", "tenants": "{ml: acme}", **members}
    rows = "".join(f"  {name}: {value}\n" for name, value in given.items() if value)
    return "sign_on:\n" + rows + TENANTS + ONE


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        fleets.load(folder, text)
    return [problem.removeprefix(f"{folder}/fleet.yaml:") for problem in caught.value.problems]


def test_it_is_read_with_its_defaults(tmp_path: Path) -> None:
    found = fleets.load(tmp_path, fleet_text()).sign_on
    assert found == made()
    assert found and (found.jwks, found.clock_skew, found.groups_claim) == (None, 60.0, "groups")
    assert made(jwks="/etc/jwks.json", audience=["a", "b"]).audience == ("a", "b")
    for url in ("http://127.0.0.1:9400", "http://localhost:9400/", "http://[::1]:9400"):
        assert made(issuer=url, jwks=f"{url}/keys").issuer == url


@each(
    ("members", "problem"),
    [
        ({"issuer": ""}, "1: sign_on.issuer: is missing"),
        ({"issuer": "http://id.example"}, "2: sign_on.issuer: it should begin with https"),
        ({"issuer": "http://127.0.0.1.example"}, "2: sign_on.issuer: it should begin with https"),
        ({"issuer": "https://"}, "2: sign_on.issuer: it should be an https URL"),
        ({"issuer": "https://user:x@id.example"}, "2: sign_on.issuer: it should be an https URL"),
        ({"issuer": "https://id.example?tenant=1"}, "2: sign_on.issuer: an issuer has no query"),
        ({"issuer": "kubernetes/serviceaccount"}, "2: sign_on.issuer: it should be an https URL"),
        ({"audience": ""}, "1: sign_on.audience: is missing"),
        ({"audience": "[]"}, "3: sign_on.audience: "),
        ({"client_id": "''"}, "5: sign_on.client_id: "),
        ({"audience": "''"}, "3: sign_on.audience[0]: "),
        ({"jwks": "keys.json"}, "5: sign_on.jwks: it should be an https URL, and 'keys.json' is none, nor the abs"),
        ({"jwks": "http://id.example/keys"}, "5: sign_on.jwks: it should begin with https"),
        ({"jwks": "https://[x/keys"}, "5: sign_on.jwks: "),
        ({"clock_skew": "301"}, "5: sign_on.clock_skew: "),
        ({"clock_skew": "-1"}, "5: sign_on.clock_skew: "),
        ({"clock_skew": ".nan"}, "5: sign_on.clock_skew: "),
        ({"groups_claim": "''"}, "5: sign_on.groups_claim: "),
        ({"algorithms": "[HS256]"}, "5: sign_on.algorithms: unknown key"),
        ({"tenants": ""}, "1: sign_on: nobody would get in"),
        ({"tenants": "{ml: acne}"}, "4: sign_on.tenants.ml: there is no tenant 'acne' in 'tenants'"),
        ({"tenants": "{ml: {models: [a]}}"}, "4: sign_on.tenants.ml.tenant: is missing"),
        ({"tenants": "{ml: {tenant: acme, models: []}}"}, "4: sign_on.tenants.ml.models: "),
        ({"tenants": "{ml: {tenant: acme, proxy: true}}"}, "4: sign_on.tenants.ml.proxy: unknown key"),
        ({"tenants": "{ml: {tenant: acme, endpoints: [all]}}"}, "4: sign_on.tenants.ml.endpoints"),
        ({"default_tenant": "guest"}, "5: sign_on.default_tenant: there is no tenant 'guest'"),
    ],
)
def test_a_mistake_is_named_with_its_line(members: dict[str, str], problem: str, tmp_path: Path) -> None:
    found = problems(tmp_path, fleet_text(**members))
    assert any(one.startswith(problem) for one in found), found


def test_open_to_everyone_and_signed_on_contradict_each_other(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, fleet_text() + "\nauth: none\n")
    assert found.startswith("1: sign_on: with 'auth: none'")


def test_whether_users_sign_on_changes_at_a_start_alone(tmp_path: Path) -> None:
    """A service that listens everywhere because users sign on would be open to everyone otherwise."""
    without, with_it = fleets.load(tmp_path, ONE), fleets.load(tmp_path, fleet_text())
    other = fleets.load(tmp_path, fleet_text(audience="other"))
    assert [len(needs_restart(*pair)) for pair in ((without, with_it), (with_it, without), (with_it, other))] == [
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("groups", ["a"]),
        ("realm_access.roles", ["b"]),
        ("kubernetes.io.namespace", "c"),
        ("https://id.example/groups", ["d"]),
        ("a.b", "whole"),
        ("a.c", None),
        ("sub.x", None),
        ("none", None),
        (".", None),
        ("groups.", None),
    ],
)
def test_claims_are_found_inside_others(name: str, found: Any) -> None:
    given = {
        "groups": ["a"], "realm_access": {"roles": ["b"]}, "kubernetes.io": {"namespace": "c"}, "sub": "alice",
        "https://id.example/groups": ["d"], "a.b": "whole", "a": {"b": "part"},
    }  # fmt: skip
    assert claim_at(given, name) == found


def test_groups_are_texts() -> None:
    assert groups_of("a b") == {"a b"} and groups_of(["a", "", None, ["b"], 1]) == {"a", ""}
    assert not groups_of(None) and not groups_of({"a": 1}) and not groups_of(True)


def test_the_first_group_of_the_file_counts_alone() -> None:
    sign_on = made(
        tenants={"a": {"tenant": "one", "models": ["m"]}, "b": {"tenant": "two", "endpoints": ["metrics"]}},
        default_tenant="guests",
    )
    for groups, tenant in ((["b", "a"], "one"), (["b"], "two"), (["c"], "guests"), (None, "guests")):
        found = sign_on.access({"groups": groups})
        assert found and found.tenant == tenant
    assert made().access({"groups": ["c"]}) is None


def test_who_may_sign_on_is_said_in_a_line() -> None:
    assert describe(made()) == (
        f"Sign-on: tokens of {NAME} for rh, signing keys: where its configuration says; groups with a tenant, by "
        "'groups': 1, and nobody else."
    )
    assert "any other user is of tenant 'guests'" in describe(made(default_tenant="guests"))
