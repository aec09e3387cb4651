"""The autoscaler's queries; tests/deploy asks a real Prometheus each of them."""

from service.autoscaling import queries

OF = '{model="llama-2-7b-chat",namespace="llm"}'


def test_the_queries_are_of_one_model_in_one_namespace_and_add_gateways_up() -> None:
    of = "llama-2-7b-chat", "llm"
    queued = f"clamp_max(sum(roundhouse_requests_queued{OF}) / 30, 4.5)"
    assert queries.load(*of, 30, 4.5) == f"sum(rate(roundhouse_requests_arrived_total{OF}[1m])) + {queued}"
    assert queries.in_flight(*of) == f"sum(roundhouse_requests_in_flight{OF})"
    assert queries.demand(*of) == f"sum(roundhouse_demand{OF})"
    usage = f"roundhouse_engine_kv_cache_usage_ratio{OF}"
    assert queries.kv_cache(*of) == f"sum(max by (replica) ({usage})) or vector(0)"
