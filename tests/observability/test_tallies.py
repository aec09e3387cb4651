"""Counted together or one by one, requests bring the same; none waits for ever, and what waits is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from service.observability.log_fields import Outcome
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.observability.tallies import MOST_GAPS, MOST_REQUESTS, Tallies
from tests.observability.test_metrics import CHAT, ended, series, streamed

EIGHTHS = st.integers(0, 80).map(lambda number: number / 8)  # whose sums are exact in any order

ENDS: tuple[tuple[int, Outcome, str | None], ...] = (
    (200, "complete", None),
    (429, "refused", "rate_limited"),
    (502, "failed", "upstream_error"),
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A record as a request may leave it, each part of which is there or is not."""
    made = Record("id", draw(st.sampled_from((CHAT, "/v1/rerank"))), draw(EIGHTHS))
    made.model = draw(st.sampled_from(("", "m", "n")))
    made.variant, made.tenant = "chat" if made.model else "", draw(st.sampled_from(("", "acme")))
    made.status, made.outcome, made.code = draw(st.sampled_from(ENDS))
    made.streamed, made.attempts = draw(st.booleans()), draw(st.integers(0, 2))
    made.route_reason = draw(st.sampled_from(("id", "alias of m", "auto: code", "auto: text")))
    made.ended, made.admitted = made.started + draw(EIGHTHS), draw(st.none() | st.just(made.started + 0.25))
    made.output_times = [made.started + later for later in sorted(draw(st.lists(EIGHTHS, max_size=4)))]
    made.prompt_tokens, made.cached_tokens, made.lost_tokens = draw(st.tuples(*[st.integers(0, 9)] * 3))
    made.completion_tokens = draw(st.sampled_from((0, 1, 3, 5)))  # all less one are powers of two
    made.gpu_seconds, made.cost = draw(st.sampled_from(((0.0, 0.0), (0.5, 0.25))))
    made.ignored_fields = draw(st.sampled_from(((), ("verbosity",), ("verbosity", "other"))))
    made.fallback, made.fallback_of = draw(st.sampled_from((("", ""), ("queue_full", "n"))))
    return made


@given(st.lists(records(), max_size=12))
def test_together_and_one_by_one_they_bring_the_same(many: list[Record]) -> None:
    together, one_by_one = Metrics(), Metrics()
    for record in many:
        together.observe(record)
        one_by_one.observe(record)
        one_by_one.requests.settle()
    assert together.text() and series(together) == series(one_by_one)


def test_what_waits_of_a_kind_is_bounded() -> None:
    for outputs, most in ((0, MOST_REQUESTS), (MOST_GAPS // 4 + 1, 4)):
        tallies = Tallies()
        many = [ended(model="m", streamed=True, output_times=[10.5] * outputs) for _ in range(most)]
        *none, (_, tally) = [tallies.add(record) for record in many]  # type: ignore[misc]
        assert not any(none) and len(tally.durations) == most
        assert not list(tallies.take_kinds()), "it is not counted again"


def test_requests_are_in_the_library_s_values_when_there_are_many() -> None:
    metrics = Metrics()
    for _ in range(MOST_REQUESTS):
        metrics.observe(streamed())
    (family,) = metrics.requests.requests.collect()
    assert family.samples[0].value == MOST_REQUESTS
