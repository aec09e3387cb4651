"""docs/configuration.md, written from the settings: python -m service.config.reference > docs/configuration.md"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service.config.paths import ROOT
from service.config.settings import Settings, variable

INTRODUCTION = """\
# Configuration

<!-- Written by `python -m service.config.reference > docs/configuration.md` from service/config/settings.py. -->

Roundhouse is configured in two places. *What* is served stands in the fleet file ([fleet.md](fleet.md)). *How* this
process runs stands in environment variables, and this page lists all of them. Every one has a default, so that
`roundhouse serve` works without any. `roundhouse --help` prints the same list.

- **Precedence**: the options of a command (`roundhouse serve --fleet FILE --host HOST --port PORT`) win over the
  environment, and the environment over the defaults. No `.env` file is read. For a single model, `timeouts:` in the
  fleet file wins over the queue, activation, first-token, idle and total timeouts here.
- **Mistakes**: an unknown `ROUNDHOUSE_…` variable, or a value that is malformed or out of range, keeps every command
  from starting. All mistakes are reported at once, one line each: `environment: NAME: what is wrong`.
- **Empty** variables count as unset. A path may begin with `~`.
- **Kubernetes** sets variables such as `ROUNDHOUSE_SERVICE_HOST` and `ROUNDHOUSE_PORT=tcp://10.0.0.1:3000` in every
  container when the namespace has a Service named `roundhouse` or `roundhouse-…`. They are recognised and ignored.
- **Traces** are configured by OpenTelemetry's own variables (`OTEL_…`): [tracing.md](tracing.md) lists them.
- **Changes** take effect when the service is restarted; the fleet file and the keys file alone are reloaded while it
  runs.

Durations are seconds, fractions allowed, and must be above zero. Sizes are bytes.
"""

# The sections of the page: title, what they are about, and their settings.
SECTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Paths": (
            "Where files are. A relative path starts from the folder in which the command is run. The default fleet "
            "and catalogue are part of Roundhouse.",
            (
                "fleet",
                "models",
                "weights",
                "run_dir",
                "start_times",
                "responses_dir",
                "usage_dir",
                "evidence_dir",
                "engine_program",
                "engine_cache",
            ),
        ),
        "Listening": (
            "Without an API key the service listens on loopback addresses only, unless the fleet file says "
            "`auth: none`.",
            ("host", "port", "allowed_hosts"),
        ),
        "API keys": (
            "Who may use the service. [security.md](security.md) explains keys, and what each may do.",
            ("api_key", "api_key_file", "keys"),
        ),
        "Log": (
            "What is written on standard output, a line for each request and event. [logs.md](logs.md) explains it.",
            ("log_format", "log_level", "log_sample", "log_probes", "log_engines"),
        ),
        "Audit log and prompt log": (
            "Who changed or used what, and what some tenants asked and got. [security.md](security.md#audit-log) says "
            "what is in them.",
            ("audit_log", "audit_requests", "prompt_log", "audit_max_bytes", "audit_files"),
        ),
        "Isolation": (
            "What keeps strangers from the engines, and tenants apart in them: "
            "[security.md](security.md#tenants-in-the-engines).",
            ("engine_key", "engine_key_file", "cache_secret", "cache_secret_file"),
        ),
        "Guardrails": (
            "What judges texts is in the fleet file. [guardrails.md](guardrails.md) explains it.",
            ("guardrail_keys",),
        ),
        "Limits": (
            "What a single request may be. The number of requests is limited per model in the fleet file "
            "(`max_in_flight`, `max_queued`), and per tenant.",
            ("max_body_bytes", "max_response_bytes", "max_header_bytes"),
        ),
        "Checks before an engine": (
            "Schemas, grammars and images are compiled and decoded in a process that may die, before an engine sees "
            "them. [security.md](security.md#what-is-checked-before-an-engine-sees-it) has the rest.",
            ("check_processes", "check_timeout", "check_memory_bytes", "check_images"),
        ),
        "Stored responses": (
            "How much is kept in `ROUNDHOUSE_RESPONSES_DIR`, and how long. [responses.md](responses.md) has the rest.",
            ("responses_max_bytes", "responses_max_age"),
        ),
        "Usage": (
            "How much the ledger in `ROUNDHOUSE_USAGE_DIR` keeps. [usage.md](usage.md) has the rest.",
            ("usage_detail_age", "usage_max_bytes"),
        ),
        "Timeouts": (
            "How long each step of a request may take. [errors.md](errors.md) explains the errors that follow.",
            (
                "keep_alive_timeout",
                "body_timeout",
                "body_total_timeout",
                "connect_timeout",
                "first_token_timeout",
                "idle_timeout",
                "total_timeout",
                "client_write_timeout",
            ),
        ),
        "Overload and several gateways": (
            "What happens when more requests arrive than the engines can run, and how several gateway processes share "
            "the engines. [reliability.md](reliability.md) explains both.",
            ("queue_timeout", "sse_heartbeat_interval", "workers", "gateway_replicas", "redis_url"),
        ),
        "Lifecycle": (
            "How engines start, hang and stop, and how the service shuts down.",
            ("preload", "start_timeout", "activation_timeout", "hang_timeout", "drain_grace", "drain_timeout"),
        ),
        "Observability": (
            "What the service says of itself. [metrics.md](metrics.md) lists the metrics, "
            "[console.md](console.md) describes the page.",
            ("console", "genai_metrics"),
        ),
        "Evidence": (
            "How much is kept of engines that hung, crashed or failed to start. "
            "[reliability.md](reliability.md#evidence) says what.",
            ("evidence", "evidence_bundles", "evidence_max_bytes"),
        ),
    }
)
HEAD = "| variable | default | unit | what it does |\n|---|---|---|---|"


def document() -> str:
    """All of docs/configuration.md, without the last line break."""
    return "\n".join([INTRODUCTION, *(line for title in SECTIONS for line in _section(title))]).rstrip()


def _section(title: str) -> Iterator[str]:
    about, names = SECTIONS[title]
    yield from (f"## {title}\n", f"{about}\n", HEAD)
    yield from (_row(name) for name in names)
    yield ""


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    text = " ".join((field.description or "").split())
    return f"| `{variable(name)}` | {_default(field.default)} | {_unit(name, field)} | {text} |"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if value is None or not str(value):
        return "unset"
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)
    elif isinstance(value, Path) and value.is_relative_to(Path.home()):
        value = Path("~") / value.relative_to(Path.home())
    return f"`{value:.10g}`" if isinstance(value, float) else f"`{value}`"


def _unit(name: str, field: FieldInfo) -> str:
    kind: Any = field.annotation
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return "text"
    if kind is float:
        return "0 to 1" if any(hasattr(one, "le") for one in field.metadata) else "seconds"
    if kind is int:
        return "bytes" if name.endswith("_bytes") else "number"
    return "text" if kind in (str, SecretStr) else "path"


if __name__ == "__main__":
    print(document())
