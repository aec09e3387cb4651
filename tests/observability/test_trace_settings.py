"""Which traces OpenTelemetry's variables ask for."""

import pytest

from service.config.strict_yaml import ConfigError
from service.observability.trace_settings import LOW_BITS, PROTOCOL, engine_variables, read

URL = "http://collector:4318"
ENDPOINT, SAMPLER, RATIO = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({ENDPOINT: "  "}, None),
        ({ENDPOINT: URL}, f"{URL}/v1/traces"),
        ({ENDPOINT: f"{URL}/"}, f"{URL}/v1/traces"),
        ({TRACES: f"{URL}/mine", ENDPOINT: "http://other"}, f"{URL}/mine"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: URL}, None),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: URL}, None),
        ({"OTEL_SERVICE_NAME": "x", SAMPLER: "banana"}, None),
    ],
    ids=str,
)
def test_traces_are_on_where_an_endpoint_is_named(environ: dict[str, str], endpoint: str | None) -> None:
    found = read(environ)
    assert (found and found.endpoint) == endpoint


def test_every_mistake_is_named_with_what_to_do() -> None:
    for name, value, hint in [
        (ENDPOINT, "collector:4317", "http://collector:4318"),
        (ENDPOINT, "http://", "http://collector:4318"),
        (ENDPOINT, "http://x:99999", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", f"it should be {PROTOCOL}"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", f"it should be {PROTOCOL}"),
        ("OTEL_TRACES_EXPORTER", "jaeger", "otlp or none"),
        (SAMPLER, "sometimes", "parentbased_always_on"),
        (RATIO, "2", "from 0 to 1"),
        (RATIO, "nan", "from 0 to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1" * 5000, "above 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "at least OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "a file there is"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization", "name=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0d%0ac", "name=value"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "seconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "gzip or none"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read({ENDPOINT: URL, name: value})
        (problem,) = caught.value.problems
        assert problem.startswith(f"environment: {name}: ") and hint in problem, problem


SAMPLERS = [
    ("", "", (True, True, False)),
    ("always_on", "", (True, True, True)),
    ("always_off", "", (False, False, False)),
    ("traceidratio", "0", (False, False, False)),
    ("parentbased_always_off", "", (False, True, False)),
    ("parentbased_traceidratio", "0", (False, True, False)),
]


@pytest.mark.parametrize(("name", "ratio", "expected"), SAMPLERS)
def test_a_sampler_decides_by_the_parent_or_not(name: str, ratio: str, expected: tuple[bool, ...]) -> None:
    found = read({ENDPOINT: URL, SAMPLER: name, RATIO: ratio})
    assert found
    assert tuple(found.decide(7, parent) for parent in (None, True, False)) == expected


def test_a_ratio_decides_as_the_sdk_does() -> None:
    sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
    ours, theirs = read({ENDPOINT: URL, SAMPLER: "traceidratio", RATIO: "0.25"}), sampling.TraceIdRatioBased(0.25)
    assert ours
    for trace_id in (0, LOW_BITS, LOW_BITS >> 2, (LOW_BITS >> 2) + 1, LOW_BITS + 1 << 70, 12345 << 64 | LOW_BITS >> 3):
        assert ours.decide(trace_id, None) == theirs.should_sample(None, trace_id, "").decision.is_sampled(), trace_id


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "roundhouse"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=my%20service"}, "my service"),
        ({"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"}, "mine"),
    ],
)
def test_an_engine_exports_under_its_replicas_name_what_the_gateway_samples(environ: dict[str, str], name: str) -> None:
    traces = read({ENDPOINT: URL, **environ})
    assert traces and traces.service == name
    found = engine_variables(traces, "m-0", environ)
    assert found["OTEL_SERVICE_NAME"] == f"{name}-engine"
    assert found["OTEL_RESOURCE_ATTRIBUTES"].endswith("service.instance.id=m-0")
    assert found["OTEL_RESOURCE_ATTRIBUTES"].startswith(environ.get("OTEL_RESOURCE_ATTRIBUTES", "service"))
    assert found["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert found["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == PROTOCOL
