"""What the dashboards show: rows of panels, each with its queries. Plain data; build.py makes Grafana's JSON of it.

Gauges and counters of requests are of one machine and are summed; gauges of replicas are the same at every gateway, so
the largest counts. `$model`, `$tenant` and `$replica` are the dashboards' variables, "All" by default.
"""

from dataclasses import dataclass, field
from typing import Literal

RATE = "[$__rate_interval]"
MODEL = 'model=~"$model"'
TENANT = 'tenant=~"$tenant"'
ASKED = 'endpoint!~"/(metrics|console|health|ping|version|openapi).*"'  # by users, not by what watches the service
REPLICA = 'roundhouse_replica=~"$replica"'


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` maps legends to PromQL.

    `unit` is Grafana's name of a unit. A `stat` is one figure, a `series` a curve over time. A value from `warning` or
    `critical` on is yellow or red; one below the `floor` is red.
    """

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    kind: Literal["series", "stat"] = "series"
    warning: float | None = None
    critical: float | None = None
    floor: float | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One dashboard. `name` is that of its file; `variables` maps a variable to the metric and label it lists."""

    name: str
    title: str
    description: str
    rows: dict[str, tuple[Panel, ...]]
    variables: dict[str, tuple[str, str]] = field(default_factory=dict)


def rate(metric: str, by: str, *matchers: str) -> str:
    """A counter's rate per second, summed."""
    return f"sum by ({by}) (rate({metric}{{{','.join(matchers)}}}{RATE}))"


def percentiles(metric: str, *matchers: str) -> dict[str, str]:
    """The usual percentiles of a histogram, by their legends."""
    series = f"sum by (le) (rate({metric}_bucket{{{','.join(matchers)}}}{RATE}))"
    return {f"p{percent}": f"histogram_quantile({percent / 100}, {series})" for percent in (50, 90, 99)}


VARIABLES = {"model": ("roundhouse_demand", "model")}
FLEET = Dashboard(
    "fleet", "Roundhouse / Fleet", "All models at a glance: who is ready, what they serve, what goes wrong.",
    {
        "Now": (
            Panel("Requests", "Requests that end, per second.", "reqps",
                  {"": f"sum(rate(roundhouse_requests_total{{{MODEL},{ASKED}}}{RATE}))"}, "stat"),
            Panel("Errors", "Share of requests that failed or were refused with 5xx, over 5 minutes; the worst model.",
                  "percentunit", {"": f"max(model:roundhouse_errors:ratio_rate5m{{{MODEL}}})"}, "stat", 0.005, 0.05),
            Panel("Slow first tokens", "Share of streams whose first token took more than 2 s; the worst model.",
                  "percentunit", {"": f"max(model:roundhouse_slow_first_tokens:ratio_rate5m{{{MODEL}}})"}, "stat",
                  0.05, 0.3),
            Panel("Waiting", "Requests that wait for a slot.", "short",
                  {"": f"sum(roundhouse_requests_queued{{{MODEL}}})"}, "stat", 1, 50),
            Panel("Ready replicas", "Replicas that serve.", "short",
                  {"": f'sum(max by (model) (roundhouse_replicas{{{MODEL},state="ready"}}))'}, "stat", floor=1),
            Panel("Failed replicas", "Replicas that failed and have not been restarted yet.", "short",
                  {"": f'sum(max by (model) (roundhouse_replicas{{{MODEL},state="failed"}}))'}, "stat", 1, 2),
        ),
        "Load": (
            Panel("Requests by model", "Requests that end, per second.", "reqps",
                  {"{{model}}": rate("roundhouse_requests_total", "model", MODEL, ASKED)}, stacked=True),
            Panel("Arrivals by model", "Requests that arrive, per second, as an autoscaler sees them.", "reqps",
                  {"{{model}}": f"model:roundhouse_arrivals:rate2m{{{MODEL}}}"}),
            Panel("Demand", "Requests in flight and waiting.", "short",
                  {"{{model}}": f"model:roundhouse_demand:sum{{{MODEL}}}"}, stacked=True),
            Panel("Utilization", "Sequences in flight and requests waiting, as part of what the ready replicas take.",
                  "percentunit", {"{{model}}": f"model:roundhouse_utilization:ratio{{{MODEL}}}"}, warning=0.8,
                  critical=1),
        ),
        "What goes wrong": (
            Panel("Errors by code", "Requests per second that ended in an error.", "reqps",
                  {"{{code}}": rate("roundhouse_errors_total", "code", MODEL)}, stacked=True),
            Panel("Outcomes", "How requests end.", "reqps",
                  {"{{outcome}}": rate("roundhouse_requests_total", "outcome", MODEL, ASKED)}, stacked=True),
            Panel("Replicas by state", "Over all models.", "short",
                  {"{{state}}": f"sum by (state) (max by (model, state) (roundhouse_replicas{{{MODEL}}}))"},
                  stacked=True),
            Panel("Ejected replicas", "Replicas that get no requests for now, since some failed.", "short",
                  {"{{model}}": f"max by (model) (roundhouse_replicas_ejected{{{MODEL}}})"}, warning=1),
            Panel("Restarts", "Restarts of engines after a crash or a hang, in an hour.", "short",
                  {"{{replica}}": f"max by (replica) (changes(roundhouse_engine_restarts{{{MODEL}}}[1h]))"}, warning=1,
                  critical=3),
            Panel("Retries", "Second attempts on another replica, per second.", "reqps",
                  {"{{model}}": rate("roundhouse_retries_total", "model", MODEL)}),
        ),
        "Shared memory": (
            Panel("Memory taken", "What engines take of a share, as part of its memory.", "percentunit",
                  {"{{share}}": "max by (share) (roundhouse_share_taken_memory_bytes) / "
                   "max by (share) (roundhouse_share_memory_bytes)"}),
            Panel("Changes", "How often a model was loaded, stopped to make room, put to sleep and woken, in an hour.",
                  "short", {"{{model}} {{change}}":
                            f"max by (model, change) (delta(roundhouse_share_changes{{{MODEL}}}[1h]))"}, stacked=True),
            Panel("Waiting for room", "Part of the time for which a model with requests waited for room.",
                  "percentunit",
                  {"{{model}}": f"max by (model) (deriv(roundhouse_share_wait_seconds{{{MODEL}}}[10m]))"}, warning=0.5),
        ),
        "The gateway": (
            Panel("Event loop lag", "How late a timer of the gateway is (99th percentile): what every token waits for.",
                  "s", {"{{instance}}": "histogram_quantile(0.99, sum by (instance, le) "
                        f"(rate(roundhouse_event_loop_lag_seconds_bucket{RATE})))"}, warning=0.05, critical=0.1),
            Panel("Lost log lines", "Lines per second that nobody will read.", "short",
                  {"standard output": f"sum(rate(roundhouse_log_lines_dropped_total{RATE}))"}, warning=0.001),
            Panel("Routing", "How the requested names led to a model.", "reqps",
                  {"{{rule}}": rate("roundhouse_routing_decisions_total", "rule", MODEL)}, stacked=True),
        ),
    },
    VARIABLES,
)  # fmt: skip

ONE_MODEL = Dashboard(
    "model", "Roundhouse / Model", "One model: latency, tokens, batch, cache and queue.",
    {
        "Latency": (
            Panel("Time to first token", "From arrival to the first output of a stream.", "s",
                  percentiles("roundhouse_time_to_first_token_seconds", MODEL), warning=2),
            Panel("Inter-token latency", "Gaps between the outputs of a stream.", "s",
                  percentiles("roundhouse_inter_token_latency_seconds", MODEL)),
            Panel("Time per output token", "From first to last output, divided by the tokens after the first.", "s",
                  percentiles("roundhouse_time_per_output_token_seconds", MODEL)),
            Panel("Request duration", "From arrival to the end of the response.", "s",
                  percentiles("roundhouse_request_duration_seconds", MODEL, ASKED)),
        ),
        "Load": (
            Panel("Requests", "By status.", "reqps",
                  {"{{status}}": rate("roundhouse_requests_total", "status", MODEL, ASKED)}, stacked=True),
            Panel("Tokens", "Prompt and completion tokens per second.", "short",
                  {"{{kind}}": rate("roundhouse_tokens_total", "kind", MODEL)}),
            Panel("Wasted tokens", "Tokens per second of responses that failed or whose clients left.", "short",
                  {"{{outcome}}": rate("roundhouse_wasted_tokens_total", "outcome", MODEL)}),
        ),
        "Queue": (
            Panel("Waiting and in flight", "Requests that wait for a slot, and those that hold one.", "short", {
                "waiting": f"sum(roundhouse_requests_queued{{{MODEL}}})",
                "in flight": f"sum(roundhouse_requests_in_flight{{{MODEL}}})",
                "limit of sequences": f"sum(roundhouse_concurrency_limit{{{MODEL}}})",
            }),
            Panel("Queue wait", "From arrival to a slot at a replica.", "s",
                  percentiles("roundhouse_queue_wait_seconds", MODEL)),
        ),
        "Replicas": (
            Panel("Batch size", "Requests in the engine's batch.", "short",
                  {"{{replica}}": f"max by (replica) (roundhouse_engine_requests_running{{{MODEL}}})"}),
            Panel("Waiting in the engine", "Requests that wait within the engine, mostly for KV cache.", "short",
                  {"{{replica}}": f"max by (replica) (roundhouse_engine_requests_waiting{{{MODEL}}})"}, warning=1),
            Panel("KV cache", "Used part of the engine's KV cache.", "percentunit",
                  {"{{replica}}": f"max by (replica) (roundhouse_engine_kv_cache_usage_ratio{{{MODEL}}})"},
                  warning=0.9, critical=0.95),
            Panel("Cached prompt tokens", "Part of the prompt tokens that a prefix cache had already.", "percentunit",
                  {"hit rate": f"sum(rate(roundhouse_cached_prompt_tokens_total{{{MODEL}}}{RATE})) / "
                   f'sum(rate(roundhouse_tokens_total{{{MODEL},kind="prompt"}}{RATE}))'}),
            Panel("Last start", "How long each phase of the last start of an engine took.", "s",
                  {"{{replica}} {{phase}}":
                   f"max by (replica, phase) (roundhouse_engine_start_seconds{{{MODEL}}})"}, stacked=True),
        ),
    },
    VARIABLES,
)  # fmt: skip

TENANTS = Dashboard(
    "tenants", "Roundhouse / Tenants and cost", "Who uses what, and its cost in the fleet file's currency.",
    {
        "Tenants": (
            Panel("Requests", "Requests that end, per second.", "reqps",
                  {"{{tenant}}": rate("roundhouse_tenant_requests_total", "tenant", TENANT)}, stacked=True),
            Panel("Refused and failed", "Requests per second that did not succeed.", "reqps",
                  {"{{tenant}} {{outcome}}": rate("roundhouse_tenant_requests_total", "tenant, outcome", TENANT,
                                                  'outcome!="complete"')}, stacked=True),
            Panel("Tokens", "Prompt and completion tokens per second.", "short",
                  {"{{tenant}} {{kind}}": rate("roundhouse_tenant_tokens_total", "tenant, kind", TENANT)}),
            Panel("Used budgets", "Part of a budget that is used: of a minute's until it has refilled, of a day's "
                  "until midnight UTC.", "percentunit",
                  {"{{tenant}} {{budget}}":
                   f"max by (tenant, budget) (roundhouse_tenant_budget_used_ratio{{{TENANT}}})"},
                  warning=0.9, critical=1),
            Panel("GPU time", "GPUs that are busy for a tenant; requests that run at once share them.", "short",
                  {"{{tenant}}": rate("roundhouse_tenant_gpu_seconds_total", "tenant", TENANT)}, stacked=True),
        ),
        "Cost": (
            Panel("Cost by tenant", "Price of the busy GPU time within the dashboard's range.", "short",
                  {"{{tenant}}": f"sum by (tenant) (increase(roundhouse_tenant_cost_total{{{TENANT}}}[$__range]))"},
                  "stat"),
            Panel("Cost of busy and idle time", "Price of all GPU time within the range.", "short",
                  {"{{use}}": f"sum by (use) (increase(roundhouse_cost_total{{{MODEL}}}[$__range]))"}, "stat"),
            Panel("Cost per hour by model", "At the present rate.", "short",
                  {"{{model}} {{use}}": f"3600 * {rate('roundhouse_cost_total', 'model, use', MODEL)}"}, stacked=True),
            Panel("Busy part of GPU time", "How much of the time of running engines requests were in flight.",
                  "percentunit",
                  {"{{model}}": rate("roundhouse_gpu_seconds_total", "model", MODEL, 'use="busy"') + " / "
                   + rate("roundhouse_gpu_seconds_total", "model", MODEL)}),
            Panel("Cost per million tokens", "All GPU time, idle time included.", "short",
                  {"{{model}}": f"1e6 * {rate('roundhouse_cost_total', 'model', MODEL)} / "
                   f"{rate('roundhouse_tokens_total', 'model', MODEL)}"}),
        ),
    },
    {**VARIABLES, "tenant": ("roundhouse_tenant_requests_total", "tenant")},
)  # fmt: skip

ENGINES = Dashboard(
    "engines", "Roundhouse / Engines", "vLLM's own metrics of each engine, scraped through the gateway.",
    {
        "Load": (
            Panel("Running", "Requests in the batch.", "short",
                  {"{{roundhouse_replica}}": f"vllm:num_requests_running{{{REPLICA}}}"}),
            Panel("Waiting", "Requests that wait for KV cache (capacity) or for something else (deferred).", "short",
                  {"{{roundhouse_replica}} {{reason}}": f"vllm:num_requests_waiting_by_reason{{{REPLICA}}}"},
                  warning=1),
            Panel("KV cache", "Used part of the KV cache.", "percentunit",
                  {"{{roundhouse_replica}}": f"vllm:kv_cache_usage_perc{{{REPLICA}}}"}, warning=0.9, critical=0.95),
            Panel("Preemptions", "Requests per second that lost their KV cache and begin again.", "short",
                  {"{{roundhouse_replica}}": rate("vllm:num_preemptions_total", "roundhouse_replica", REPLICA)},
                  warning=0.1),
        ),
        "Work": (
            Panel("Tokens", "Tokens per second.", "short", {
                "{{roundhouse_replica}} prompt": rate("vllm:prompt_tokens_total", "roundhouse_replica", REPLICA),
                "{{roundhouse_replica}} generated": rate("vllm:generation_tokens_total", "roundhouse_replica", REPLICA),
            }),
            Panel("Steps", "Steps of the engine per second. None while requests run: it hangs.", "short",
                  {"{{roundhouse_replica}}": rate("vllm:iteration_tokens_total_count", "roundhouse_replica", REPLICA)}),
            Panel("Prefix cache", "Part of the prompt tokens that were in the cache.", "percentunit",
                  {"{{roundhouse_replica}}": rate("vllm:prefix_cache_hits_total", "roundhouse_replica", REPLICA) + " / "
                   + rate("vllm:prefix_cache_queries_total", "roundhouse_replica", REPLICA)}),
            Panel("Finished requests", "Per second, by reason.", "reqps",
                  {"{{finished_reason}}": rate("vllm:request_success_total", "finished_reason", REPLICA)},
                  stacked=True),
            Panel("Rejections", "Requests per second that engines refused since their own queue was full.", "reqps",
                  {"{{reason}}": rate("vllm:admission_rejections_total", "reason", REPLICA)}),
        ),
        "Latency in the engine": (
            Panel("Time to first token", "Without the gateway's queue.", "s",
                  percentiles("vllm:time_to_first_token_seconds", REPLICA)),
            Panel("Inter-token latency", "Gaps between tokens.", "s",
                  percentiles("vllm:inter_token_latency_seconds", REPLICA)),
            Panel("Queue", "Time that requests wait in the engine. The first bucket ends at 0.3 s.", "s",
                  percentiles("vllm:request_queue_time_seconds", REPLICA)),
        ),
    },
    {"replica": ("vllm:num_requests_running", "roundhouse_replica")},
)  # fmt: skip

DASHBOARDS = (FLEET, ONE_MODEL, TENANTS, ENGINES)
