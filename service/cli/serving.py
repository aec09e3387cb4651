"""Commands about a fleet: check it, ask where a request goes, serve it, look at a running service."""

import json
import math
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.auth import keys_file, sign_on
from service.cli.configured import configured, fleet_option, refuse_large_shares, refuse_taken, refused
from service.config import run_dir
from service.config.paths import PACKAGE
from service.config.settings import Settings, variable
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from service.fleet.shares import parts_by_share
from service.gateway.listening import check_access, describe
from service.gateway.prerequisites import unmet_here
from service.observability import trace_settings
from service.observability.rotating_file import check_private
from service.planner.memory import Demand
from service.planner.plan import memory_requirement
from service.protocol.generation import FENCE, GENERATION, Kind, Requirements
from service.protocol.requests import Message
from service.routing.fallbacks import fallbacks, may_fall_back
from service.routing.resolve import resolve
from service.sharing.fitting import table as table_of_share

CACHE = "cache: what a request of the whole context takes, in 16-bit numbers"


@click.command()
@fleet_option
def check(fleet_file: Path | None) -> None:
    """Validate catalogue and fleet without starting anything."""
    settings, _, served = configured(fleet_file)
    refuse_large_shares(fleet_file or settings.fleet, served)
    with refused():
        keys = keys_file.load(settings, served.sign_on is not None)
        check_access(settings.host, served.auth, keys)
        trace_settings.read(os.environ)
    table = Table(
        "model", "variant", "runs", "context", "cache", "answers", box=SIMPLE, padding=(0, 1, 0, 0), caption=CACHE
    )
    table.columns[0].no_wrap = True
    for one in served.served:
        context = f"{one.context:,}" if one.context else "the engine's"
        table.add_row(one.id, one.variant, _runs(one), context, _cache(one), ", ".join(sorted(one.capabilities)))
    Console().print(table)
    for one in served.served:
        click.echo(f"{one.id}: {', '.join(one.addresses) or one.weights}")
        if one.parser_choice:
            click.echo(f"{one.id}: {one.parser_choice}")
        if one.stays_cold:
            click.echo(f"{one.id}: 'keep: warm' is 'cold' here, for vLLM has no sleep mode without a card")
    for parts in parts_by_share(served.served).values():
        share = next(iter(parts.values())).share
        click.echo("\n".join(table_of_share(share, parts)))
    click.echo(describe(served.auth, keys))
    if served.sign_on:
        click.echo(sign_on.describe(served.sign_on))
    for key in (keys or {}).values():
        for name in sorted((key.models or frozenset()) - served.names):
            click.echo(f"{key.id}: its key is for '{name}', which is not served")
    for group, access in (served.sign_on.tenants if served.sign_on else {}).items():
        for name in sorted({*(access.models or ())} - served.names):
            click.echo(f"sign_on: the group '{group}' may use '{name}', which is not served")
    click.echo(f"{fleet_file or settings.fleet}: {len(served.served)} models, nothing wrong.")


def _runs(one: ServedModel) -> str:
    """How many replicas, on what; `0-2` where not all of them always run."""
    if one.addresses:
        return "elsewhere"
    count = f"{one.max_replicas}" if one.min_replicas == one.max_replicas else f"{one.min_replicas}-{one.max_replicas}"
    if one.part:
        return f"{one.part.keep} in {one.part.share.name}"
    return f"{count} x {one.gpus} GPU{'s' * (one.gpus > 1)}" if one.gpus else f"{count} x CPU"


def _cache(one: ServedModel) -> str:
    """What the longest request that the engine takes needs of its KV cache."""
    size = memory_requirement(one.model, Demand(one.context)).request if one.context else None
    return "?" if size is None else f"{size / 2**20:,.0f} MiB" if size else "-"


@click.command()
@click.argument("name")
@click.option("--endpoint", default="/v1/chat/completions", type=click.Choice([one.path for one in GENERATION]))
@click.option("--suffix", is_flag=True, help="As a completion with text after the gap.")
@click.option("--turns", default=1, help="User turns of the conversation.")
@click.option("--code", is_flag=True, help="As if the text looked like code.")
@click.option("--tools", is_flag=True, help="As if the request brought tools.")
@click.option("--images", is_flag=True, help="As if the request had images.")
@fleet_option
def route(
    name: str, endpoint: str, suffix: bool, turns: int, code: bool, tools: bool, images: bool, fleet_file: Path | None
) -> None:
    """Say which served model a requested NAME leads to, and why."""
    _, known, served = configured(fleet_file)
    completion: Kind = "infill" if suffix else "completion"
    kinds: dict[str, Kind] = {
        "/v1/completions": completion, "/v1/embeddings": "embedding", "/rerank": "rerank", "/score": "rerank",
        "/tokenize": "tokens", "/detokenize": "tokens",
    }  # fmt: skip
    messages = [Message("user")] * turns
    need = Requirements(kinds.get(endpoint, "chat"), messages, tools, (FENCE,) if code else (), images)
    try:
        target = resolve(name, need, served, known)
    except ApiError as error:
        click.echo(f"{error.status} {error.code}: {error.message}", err=True)
        raise SystemExit(1) from None
    click.echo(f"{name} -> {target.name} ({target.served.variant}), because of {target.reason}")
    if weights := served.shares.get(name):
        parts = ", ".join(f"{id} {100 * weight / sum(weights.values()):g} %" for id, weight in weights.items())
        click.echo(f"by weight, for each conversation: {parts}")
    if others := [one.name for one in fallbacks(target, need, 0, served) if may_fall_back(name, target, None)]:
        click.echo(f"if it cannot answer: {', '.join(others)}")


@click.command()
@click.option("--url", default="http://127.0.0.1:3000", show_default=True)
@click.option("--key", default="", help="API key, if it wants one.")
def models(url: str, key: str) -> None:
    """Show the models of a running service and their state."""
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            rows = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        error.close()
        needs = f"needs {'another' if key else 'a'} key: --key" if error.code in (401, 403) else f"answers {error}"
        raise click.ClickException(f"{url} {needs}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise click.ClickException(f"no Roundhouse answers at {url}: {error}") from None
    table = Table("model", "variant", "state", "reason", "answers")
    for row in rows:
        table.add_row(row["id"], row["variant"], row["state"], row["reason"] or "", ", ".join(row["capabilities"]))
    Console().print(table)


@click.command()
@fleet_option
@click.option("--host", help="Address to listen on, if not ROUNDHOUSE_HOST's.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, if not ROUNDHOUSE_PORT's.")
def serve(fleet_file: Path | None, host: str | None, port: int | None) -> None:
    """Serve the fleet until interrupted."""
    if problems := unmet_here():
        raise click.ClickException("\n".join(problems))
    settings, _, served = configured(fleet_file)
    refuse_large_shares(fleet_file or settings.fleet, served)
    with refused():
        if settings.run_dir:
            run_dir.prepare(settings.run_dir)
        for name in ("responses_dir", "usage_dir"):
            if folder := getattr(settings, name):
                run_dir.private_folder(folder, name)
        for name in ("audit_log", "prompt_log"):
            if file := getattr(settings, name):
                check_private(file, variable(name))
        trace_settings.read(os.environ)
        host, port = host or settings.host, port or settings.port
        check_access(host, served.auth, keys_file.load(settings, served.sign_on is not None))
    refuse_taken(host, port, "--port or ROUNDHOUSE_PORT")
    options = {"fleet": fleet_file or settings.fleet, "host": host, "port": port}
    os.environ.update(_environment(settings.model_copy(update=options)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    names = ", ".join(one.id for one in served.served)
    click.echo(f"roundhouse  starting {names}; http://{host}:{port} answers as soon as a model is ready", err=True)
    os.execv(sys.executable, [sys.executable, *_bentoml(settings.drain_timeout, host, port)])


def _environment(settings: Settings) -> dict[str, str]:
    """The variables that tell the service what this command was told. Its processes run in another folder."""
    names = (
        "fleet",
        "models",
        "weights",
        "run_dir",
        "responses_dir",
        "usage_dir",
        "api_key_file",
        "keys",
        "audit_log",
        "prompt_log",
    )
    paths = {name: getattr(settings, name) for name in names}
    given = {name: str(path.absolute()) for name, path in paths.items() if path}
    given |= {"host": settings.host, "port": str(settings.port)}
    return {variable(name): value for name, value in given.items()}


def _bentoml(drain_timeout: float, host: str, port: int) -> list[str]:
    """The words after `python` that serve the service. Nothing is imported from the folder that the user is in."""
    return [
        "-P", "-m", "bentoml", "serve", "service.gateway.service:Gateway", "--working-dir", str(PACKAGE.parent),
        "--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(math.ceil(drain_timeout)),
    ]  # fmt: skip


COMMANDS = (check, route, models, serve)
