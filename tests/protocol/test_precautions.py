"""The table of precautions names every bound, every field that is opened for single tenants, and tests that exist."""

import re

from service.fleet.request_bounds import RequestBounds
from service.protocol.fields import OPT_IN
from service.protocol.precautions import PRECAUTIONS, TENANT
from tests.support.services import ROOT


def test_every_bound_has_a_row() -> None:
    named = {name for row in PRECAUTIONS for name in row.bounds}
    assert named == set(RequestBounds.model_fields)


def test_every_field_that_is_opened_for_single_tenants_has_a_row() -> None:
    named = " ".join(row.fields for row in PRECAUTIONS if row.opens == TENANT)
    assert set(OPT_IN) <= set(re.findall(r"`(\w+)`", named))


def test_the_tests_that_prove_them_exist() -> None:
    for row in PRECAUTIONS:
        assert row.tests, row.fields
        for test in row.tests:
            path, _, name = test.partition("::")
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test
