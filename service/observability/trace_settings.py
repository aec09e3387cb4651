"""What OpenTelemetry's own variables (OTEL_…) say about traces."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from service.config.strict_yaml import ConfigError
from service.observability.trace_context import Decide

PROTOCOL = "http/protobuf"
DEFAULT_ENDPOINT = "http://localhost:4318"
PATH = "/v1/traces"
SERVICE = "roundhouse"
TRACES, ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
SAMPLER, RATIO = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
QUEUE, BATCH, DELAY = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"
NUMBERS: Mapping[str, str] = MappingProxyType({QUEUE: "2048", BATCH: "512", DELAY: "5000"})  # its own defaults
NUMBER, HEADER = re.compile("[1-9][0-9]{0,8}"), re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[\x20-\x7e]*")
LOW_BITS = (1 << 64) - 1  # by which samplers of all languages decide alike


@dataclass(frozen=True)
class TraceSettings:
    """How traces are made, and sent to `endpoint`, in batches of so many spans, after a `delay` of seconds at most.

    `capacity` is the most spans that wait, `timeout` the seconds for one batch, `attributes` are more of the service.
    """

    endpoint: str
    service: str
    attributes: dict[str, str]
    decide: Decide
    capacity: int
    batch: int
    delay: float
    timeout: float
    headers: dict[str, str]
    compressed: bool = False
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


def read(environ: Mapping[str, str]) -> TraceSettings | None:
    """What the variables ask for; None where it is no traces. Raises ConfigError with all that is wrong.

    Traces are on where an OTLP endpoint is named, or OTEL_TRACES_EXPORTER is `otlp`. An empty variable counts as unset.
    """
    given = {name: text.strip() for name, text in environ.items() if name.startswith("OTEL_") and text.strip()}
    exporter = given.get("OTEL_TRACES_EXPORTER", "")
    named = given.get(f"{TRACES}ENDPOINT") or given.get(f"{ALL}ENDPOINT")
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none" or not (exporter or named):
        return None
    problems = [] if exporter in ("", "otlp") else [f"OTEL_TRACES_EXPORTER: it should be otlp or none, not {exporter}"]
    problems += [problem for name, check in CHECKS.items() if (problem := _problem(given, name, check))]
    numbers = {name: given.get(name, default) for name, default in NUMBERS.items()}
    wrong = [name for name, text in numbers.items() if not NUMBER.fullmatch(text)]
    problems += [f"{name}: it should be a whole number above 0, of at most nine digits" for name in wrong]
    if not wrong and int(numbers[QUEUE]) < int(numbers[BATCH]):
        problems.append(f"{QUEUE}: it should be at least {BATCH}, which is {NUMBERS[BATCH]} if unset")
    sampler, ratio = given.get(SAMPLER, "parentbased_always_on").lower(), given.get(RATIO, "1")
    if sampler not in SAMPLERS:
        problems.append(f"{SAMPLER}: it should be {', '.join(SAMPLERS)}")
    if not _is_number(ratio, 1):
        problems.append(f"{RATIO}: it should be a number from 0 to 1")
    if problems:
        raise ConfigError([f"environment: {one}" for one in problems])
    attributes = _pairs(given.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    return TraceSettings(
        endpoint=given.get(f"{TRACES}ENDPOINT", given.get(f"{ALL}ENDPOINT", DEFAULT_ENDPOINT).rstrip("/") + PATH),
        service=given.get("OTEL_SERVICE_NAME") or attributes.pop("service.name", SERVICE),
        attributes={name: text for name, text in attributes.items() if name != "service.name"},
        decide=SAMPLERS[sampler](float(ratio)),
        capacity=int(numbers[QUEUE]),
        batch=int(numbers[BATCH]),
        delay=int(numbers[DELAY]) / 1000,
        timeout=float(_of(given, "TIMEOUT") or 10),
        headers=_pairs(_of(given, "HEADERS")),
        compressed=_of(given, "COMPRESSION") == "gzip",
        certificate=_of(given, "CERTIFICATE") or None,
        client_certificate=_of(given, "CLIENT_CERTIFICATE") or None,
        client_key=_of(given, "CLIENT_KEY") or None,
    )


def engine_variables(traces: TraceSettings, replica: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What an engine needs in its environment to export to the same place: the requests that the gateway samples."""
    others = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").strip(", ")
    return {
        f"{TRACES}PROTOCOL": PROTOCOL,
        "OTEL_SERVICE_NAME": f"{traces.service}-engine",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(filter(None, (others, f"service.instance.id={replica}"))),
        SAMPLER: "parentbased_always_off",
    }


def _of(given: Mapping[str, str], name: str) -> str:
    """A variable of the exporter: that for traces, or else that for all it exports; empty if neither is set."""
    return given.get(TRACES + name) or given.get(ALL + name, "")


def _problem(given: Mapping[str, str], name: str, check: tuple[Callable[[str], bool], str]) -> str | None:
    full, (is_right, wanted) = TRACES + name if TRACES + name in given else ALL + name, check
    return None if full not in given or is_right(given[full]) else f"{full}: it should be {wanted}"


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0 and text.isprintable()
    except ValueError:
        return False


def _is_number(text: str, most: float) -> bool:
    try:
        return 0 <= float(text) <= most and not math.isnan(float(text))
    except ValueError:
        return False


def _is_headers(text: str) -> bool:
    rows = (name + "=" + value for name, value in _pairs(text).items())
    return all(map(HEADER.fullmatch, rows)) and all("=" in row for row in text.split(",") if row.strip())


def _pairs(text: str) -> dict[str, str]:
    """What `name=value,…` says, percent-encoded as it may be."""
    rows = (row.partition("=") for row in text.split(",") if row.strip())
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in rows}


# What variables of the exporter must be, and how that is said. Their values are not repeated: headers hold keys.
CHECKS: Mapping[str, tuple[Callable[[str], bool], str]] = MappingProxyType(
    {
        "ENDPOINT": (_is_url, "a URL, such as http://collector:4318"),
        "PROTOCOL": (lambda text: text == PROTOCOL, f"{PROTOCOL}, which collectors take at port 4318"),
        "TIMEOUT": (lambda text: _is_number(text, 3600) and float(text) > 0, "a number of seconds, at most 3600"),
        "HEADERS": (_is_headers, "name=value, separated by commas and percent-encoded"),
        "COMPRESSION": (lambda text: text in ("none", "gzip"), "gzip or none"),
        **dict.fromkeys(
            ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"), (lambda text: Path(text).is_file(), "a file there is")
        ),
    }
)


def _root(ratio: float) -> Decide:
    bound = round(ratio * (LOW_BITS + 1))
    return lambda trace_id, _: trace_id & LOW_BITS < bound


def _parent_based(root: Callable[[float], Decide]) -> Callable[[float], Decide]:
    def sampler(ratio: float) -> Decide:
        decide = root(ratio)
        return lambda trace_id, parent: decide(trace_id, None) if parent is None else parent

    return sampler


def _always(on: bool) -> Callable[[float], Decide]:
    return lambda _: lambda trace_id, parent: on


ROOTS = {"always_on": _always(True), "always_off": _always(False), "traceidratio": _root}
SAMPLERS: Mapping[str, Callable[[float], Decide]] = MappingProxyType(
    {**ROOTS, **{f"parentbased_{name}": _parent_based(root) for name, root in ROOTS.items()}}
)
