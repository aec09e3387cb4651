"""The errors that the console lists: whose they are, and that nobody's push out another's."""

from itertools import count

from service.errors import ApiError, ErrorCode
from service.gateway.console.recent_errors import KEPT, MOST_TENANTS, RecentErrors
from service.observability.record import Record


def failed(request_id: str, tenant: str = "", model: str = "") -> Record:
    record = Record(request_id, "/v1/completions", 0.0, tenant=tenant, model=model, requested="a secret", status=503)
    record.fail(ApiError(ErrorCode.OVERLOADED, "no"))
    return record


def test_a_tenant_has_its_own_and_an_operator_all() -> None:
    errors = RecentErrors(clock=count().__next__)
    errors.observe(failed("1", "acme", "chat"), "acme")
    errors.observe(failed("2"), "other")  # before its tenant was known: that of its key
    errors.observe(failed("3"), "")
    errors.observe(Record("4", "/v1/completions", 0.0), "acme")
    assert [one.request_id for one in errors.of(None)] == ["3", "2", "1"]
    (mine,) = errors.of("acme")
    assert mine == (0, 503, "overloaded", "chat", "/v1/completions", "1", "acme")
    assert [one.request_id for one in errors.of("other")] == ["2"]
    assert "secret" not in repr(errors.of(None))


def test_it_stays_small_and_one_tenant_does_not_push_out_another() -> None:
    errors = RecentErrors(clock=count().__next__)
    errors.observe(failed("mine", "acme"), "")
    for number in range(KEPT * 3):
        errors.observe(failed(str(number)), "")
    assert [one.request_id for one in errors.of("acme")] == ["mine"]
    assert len(errors.of("")) == len(errors.of(None)) == KEPT
    for number in range(MOST_TENANTS):
        errors.observe(failed("x", f"tenant-{number}"), "")
    assert len(errors._of_tenant) == MOST_TENANTS and not errors.of("acme")
