"""Salts: the same for one tenant, another for each other, and nobody can choose another's."""

import re
from itertools import combinations

from service.auth.cache_salt import CacheSalts

SALTS = CacheSalts(b"a secret of this test")
SHARED = CacheSalts(b"a secret of this test", shared=True)
# What clients might send to get at another's: its name, its salt, and names that could be glued together.
VALUES = (None, "a", "b", "a\0b", "\0", "", SALTS.salt("b", None), "\ud800")


def test_a_salt_is_43_characters_that_every_cache_takes() -> None:
    for value in VALUES:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", SALTS.salt("a", value) or "")


def test_no_two_tenants_and_values_have_the_same() -> None:
    found = [SALTS.salt(tenant, value) for tenant in ("a", "b", "ab", "a.b") for value in VALUES]
    assert all(one != other for one, other in combinations(found, 2))
    assert SALTS.salt("a", "x") == SALTS.salt("a", "x") != CacheSalts(b"another").salt("a", "x")


def test_a_shared_cache_has_none_but_those_that_clients_ask_for() -> None:
    assert SHARED.salt("a", None) is None
    assert SHARED.salt("a", "x") == SHARED.salt("b", "x") not in (None, SALTS.salt("a", "x"))
