"""Settings from the environment: one frozen `Settings`, read once at start.

docs/configuration.md is generated from the descriptions here; `python -m service.config.reference` writes it.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from service.config.log_settings import LogSettings
from service.config.paths import ROOT
from service.config.service_links import is_service_link
from service.config.setting_types import (
    ApiKey,
    Bytes,
    Count,
    HostNames,
    NamedKeys,
    Port,
    RedisUrl,
    Seconds,
    UserPath,
    expanded,
    keys_by_name,
)
from service.config.strict_yaml import ConfigError, plain

PREFIX = "ROUNDHOUSE_"


class Settings(LogSettings):
    """One field per variable `ROUNDHOUSE_<NAME>`. Durations are seconds; the names of sizes end in `_bytes`.

    The text below a field is its description; `roundhouse --help` shows the first line of it.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    fleet: UserPath = ROOT / "deploy/fleets/pebble.yaml"
    """The fleet file: which models are served, and how."""
    models: UserPath = ROOT / "models"
    """Folder of the model catalogue."""
    weights: UserPath = expanded(Path("~/.cache/roundhouse/weights"))
    """Folder where `roundhouse pull` stores weights."""
    run_dir: UserPath | None = None
    """Private folder for sockets and state files, made if it does not exist; a temporary one if unset."""
    start_times: UserPath = expanded(Path("~/.cache/roundhouse/start-times.json"))
    """File in which is remembered how long engines that share memory took to load and to wake on this machine."""
    responses_dir: UserPath | None = None
    """Private folder in which responses of `/v1/responses` are stored, made if it does not exist; none are if unset.

    It must outlive the service, unlike the run folder, and be on a disk of this machine.
    """
    usage_dir: UserPath | None = None
    """Private folder of the usage ledger, made if it does not exist; nothing is recorded if unset.

    It must outlive the service, unlike the run folder, and be on a disk of this machine.
    """
    evidence_dir: UserPath | None = None
    """Private folder with evidence of hung and crashed engines, made if it does not exist; in the run folder if unset.

    The run folder's is removed at the end of the service, unless `ROUNDHOUSE_RUN_DIR` names that folder.
    """
    engine_cache: UserPath = expanded(Path("~/.cache/roundhouse/engines"))
    """Folder that remembers which flags the installed release of vLLM does not know, made if it does not exist.

    What engines compile is in vLLM's own cache, `~/.cache/vllm` or `VLLM_CACHE_ROOT`.
    """
    engine_program: str = ""
    """Command that starts vLLM's server, if not the installed one.

    It is split into words as a shell does; the engine's own arguments are appended.
    """

    host: str = "127.0.0.1"
    """Address that `roundhouse serve` listens on."""
    port: Port = 3000
    """Port that `roundhouse serve` listens on."""
    allowed_hosts: HostNames = ""
    """More names by which the gateway may be addressed, and by which pages may use it, separated by commas.

    A gateway that listens on a loopback address is otherwise served under loopback names alone, such as `localhost`: a
    reverse proxy beside it that passes on its own `Host` needs its name here. `*` allows all. With names here, a
    gateway that listens elsewhere checks them too.
    """

    api_key: ApiKey = SecretStr("")
    """The first API key, of at least 16 characters; with one, every request but a probe needs a key.

    It may use every model and every endpoint, for the tenant `default`. Processes of the same user can read it.
    """
    api_key_file: UserPath | None = None
    """File with the first API key, instead of `ROUNDHOUSE_API_KEY`.

    Others than its owner and group must not be able to read it. It is read when the service starts.
    """
    keys: UserPath | None = None
    """File with the digests of more API keys, which `roundhouse keys` writes; it is read again when it changes."""
    engine_key: ApiKey = SecretStr("")
    """The API key that engines at `addresses` ask for, as vLLM's `--api-key` or `VLLM_API_KEY` sets it.

    Every request to such an engine carries it. Clients never see it, and engines of this service need none.
    """
    engine_key_file: UserPath | None = None
    """File with the key of engines at `addresses`, instead of `ROUNDHOUSE_ENGINE_KEY`."""
    cache_secret: ApiKey = SecretStr("")
    """Secret from which each tenant's part of the engines' prefix cache follows, of at least 16 characters.

    If unset, a random one is made and kept in the run folder. Gateways on several machines that share engines need the
    same one: a tenant's prompt that went through one of them is otherwise not found in the cache by another.
    """
    cache_secret_file: UserPath | None = None
    """File with that secret, instead of `ROUNDHOUSE_CACHE_SECRET`."""

    guardrail_keys: NamedKeys = SecretStr("")
    """Keys of classifiers that `guardrails` in the fleet file name by `url`: `NAME=KEY`, separated by commas.

    NAME is the step's. A classifier gets its key as `Authorization: Bearer KEY`; one without a key here gets none.
    """

    max_body_bytes: Bytes = 4 * 2**20
    """Largest request body; a larger one gets 413 `request_too_large`."""
    max_response_bytes: Bytes = 64 * 2**20
    """Largest answer that is not streamed; a larger one becomes 502 `response_too_large`.

    Such an answer is held in memory as a whole. One to `/v1/embeddings` can be larger: as numbers in JSON, 2,048
    vectors of 4,096 dimensions take about 180 MB.
    """
    max_header_bytes: Bytes = 32 * 2**10
    """Largest sum of header names and values; more gets 431 `headers_too_large`."""

    responses_max_bytes: Bytes = 2**30
    """Largest size of the stored responses; those that were used least recently are evicted."""
    responses_max_age: Seconds = 30 * 86400.0
    """How long a response is stored after it was last continued."""

    usage_detail_age: Seconds = 30 * 86400.0
    """How long the usage ledger keeps a line per request; after that it has sums per day."""
    usage_max_bytes: Bytes = 2**30
    """Largest size of the usage ledger; beyond it the oldest lines become sums per day before their time."""

    evidence: bool = True
    """Whether evidence of engines that hang, crash or do not start is kept before they are started again."""
    evidence_bundles: Count = 20
    """Most bundles of evidence that are kept; the oldest are dropped."""
    evidence_max_bytes: Bytes = 64 * 2**20
    """Largest size of all bundles of evidence together; the oldest are dropped."""

    body_timeout: Seconds = 30.0
    """Longest wait for the next part of a request body; then 408 `request_timeout`."""
    body_total_timeout: Seconds = 120.0
    """Longest time for a whole request body; then 408 `request_timeout`."""
    keep_alive_timeout: Seconds = 75.0
    """How long a client's connection may wait for its next request; then it is closed.

    It should be longer than a load balancer in front keeps its idle connections, which is often 60 s.
    """
    connect_timeout: Seconds = 1.0
    """Longest wait for a connection to an engine; then another replica is tried, or 502 `upstream_error`."""
    first_token_timeout: Seconds = 300.0
    """Longest wait for the first token of a streamed answer; then 504 `timeout`."""
    idle_timeout: Seconds = 60.0
    """Longest pause of an engine within an answer; then 504 `timeout`, or an error event in a stream."""
    total_timeout: Seconds = 1800.0
    """Longest time for a whole answer, queueing included; then 504 `timeout`.

    A client can ask for less with the header `x-roundhouse-timeout`.
    """
    client_write_timeout: Seconds = 60.0
    """How long a client may read nothing of its answer before its connection is reset, within a quarter of this."""

    queue_timeout: Seconds = 10.0
    """Longest wait of a request in the queue; then 503 `overloaded`."""
    sse_heartbeat_interval: Seconds = 10.0
    """How often a stream that is queued, or waits for an engine to start, gets an SSE comment.

    The comments say what it waits for, and keep proxies from closing a silent connection. A client can choose its own
    interval with the header `x-roundhouse-sse-heartbeat-interval`.
    """
    workers: Count = 1
    """Gateway processes on this machine; each grants its share of the concurrency limits and budgets."""
    redis_url: RedisUrl = SecretStr("")
    """Redis in which all gateways count tenants' budgets together, as `redis://:PASSWORD@HOST:6379/0`.

    Without it each process grants its share of every budget. `rediss://` is with TLS, `unix:///run/redis.sock` a socket
    of this machine. While it cannot be reached, tenants with budgets get 503 `budgets_unavailable`.
    """
    gateway_replicas: Count = 1
    """Machines or pods that run a gateway for the same engines; limits and budgets are divided among them."""

    console: bool = True
    """Whether the gateway has a web page at `/console`."""
    genai_metrics: bool = True
    """Whether `/metrics` also has the metrics that OpenTelemetry names (`gen_ai_…`), for dashboards made for those."""
    check_processes: Count = 1
    """Processes, for each gateway process, in which schemas, grammars and images are checked before engines."""
    check_timeout: Seconds = 5.0
    """Longest time for one such check; then 400 `check_failed`."""
    check_memory_bytes: Bytes = 2**30
    """Memory that one such check may take; with more it is 400 `check_failed`."""
    check_images: bool = True
    """Whether images are decoded there, where Pillow is installed; otherwise only their headers are checked."""

    preload: bool = True
    """Whether engines without a GPU are forked of a process that has imported vLLM; it takes 0.4 GiB of memory.

    One such process serves all engines with the same environment. An engine then starts in a fraction of the CPU time,
    the first one of a service as well as a restarted one.
    """
    start_timeout: Seconds = 900.0
    """Longest time from an engine's start to its first token; then it is killed and started again."""
    activation_timeout: Seconds = 600.0
    """Longest wait of a request for a model that is scaled to zero to start; then 503 `model_loading`."""
    hang_timeout: Seconds = 60.0
    """How long an engine may make no progress before it counts as hung.

    A hung engine gets no new requests; one that this service started is killed and restarted.
    """
    drain_grace: Seconds = 0.5
    """How long new requests are still accepted after SIGTERM, while `/readyz` fails: part of the drain timeout."""
    drain_timeout: Seconds = 20.0
    """How long requests in flight may take to finish after SIGTERM; what is left ends with an error."""

    @property
    def allowed_host_names(self) -> frozenset[str]:
        """The names of `allowed_hosts`, in lower case, IPv6 addresses without brackets."""
        return frozenset(name.strip().strip("[]").lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def guardrail_keys_by_name(self) -> dict[str, str]:
        """The keys of `guardrail_keys` by the names of their steps."""
        return keys_by_name(self.guardrail_keys)

    @property
    def gateway_processes(self) -> int:
        """How many gateway processes share the engines, and divide limits and budgets among them."""
        return self.workers * self.gateway_replicas

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but the arguments: the environment enters through `from_environ` alone, and no .env file does."""
        return (init_settings,)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings that `environ` asks for; raises ConfigError naming every variable that is unknown or wrong.

        An empty variable counts as unset, and what Kubernetes sets for its Services is ignored.
        """
        ours = {
            name: text for name, text in environ.items() if name.startswith(PREFIX) and not is_service_link(name, text)
        }
        problems = list(_unknown(ours))
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): text for name, text in ours.items() if name in VARIABLES and text}
        try:
            settings = cls(**source())
        except ValidationError as error:
            problems += [f"environment: {variable(str(item['loc'][0]))}: {plain(item)}" for item in error.errors()]
        if problems:
            raise ConfigError(problems)
        return settings


def variable(name: str) -> str:
    """The environment variable of a setting: `port` → `ROUNDHOUSE_PORT`."""
    return PREFIX + name.upper()


# Every variable that there is, and its setting's name.
VARIABLES: Mapping[str, str] = MappingProxyType({variable(name): name for name in Settings.model_fields})


def summary(name: str) -> str:
    """What a setting is, in one line."""
    return (Settings.model_fields[name].description or "").partition("\n")[0]


def _unknown(names: Mapping[str, str]) -> Iterator[str]:
    for name in names:
        if name not in VARIABLES:
            near = get_close_matches(name.removeprefix(PREFIX).lower(), Settings.model_fields)
            hint = f"did you mean {' or '.join(map(variable, near))}?" if near else "`roundhouse --help` lists all"
            yield f"environment: {name}: no such setting; {hint}"
