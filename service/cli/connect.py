"""`roundhouse connect`: the settings that a client program needs to use a running service."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from service.auth.sign_on import is_token

MAX_OUTPUT = 32_000  # tokens: more than that no client asks for by itself
TOKEN_ADVICE = "The key is a token of a user: when it has expired, the settings need a new one, or an API key instead."
NO_KEY = "none"  # clients refuse to start without a key, also where the service asks for none


@dataclass(frozen=True)
class Service:
    """Where a client connects to: the address without a path, the key, and the models, the preferred one first.

    `contexts` has the context length of a model, in tokens, where it is known. A client that does not know it shortens
    its conversations too late, and asks for more output than there is room for.
    """

    url: str
    key: str
    models: tuple[str, ...]
    contexts: Mapping[str, int]

    @property
    def openai(self) -> str:
        """The base URL for OpenAI's libraries."""
        return f"{self.url}/v1"

    def limits(self, model: str) -> tuple[int, int] | None:
        """The context of a model, and how much of it an answer may take; tokens. None if it is not known."""
        context = self.contexts.get(model)
        return (context, min(context // 4, MAX_OUTPUT)) if context else None


@dataclass(frozen=True)
class Client:
    """A client program: its settings as the text of `file` in the home folder, or as a command where it has none.

    `advice` is what to know about the names of models.
    """

    name: str
    settings: Callable[[Service], str]
    file: str | None
    run: str
    advice: str = ""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _claude(service: Service) -> str:
    model = service.models[0]
    variables = {
        "ANTHROPIC_BASE_URL": service.url,
        "ANTHROPIC_AUTH_TOKEN": service.key,
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if limits := service.limits(model):
        variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = map(str, limits)
    return _json({"env": variables})


def _codex(service: Service) -> str:
    limits = service.limits(service.models[0])
    window = f"model_context_window = {limits[0]}\n" if limits else ""
    return (
        f'model = "{service.models[0]}"\nmodel_provider = "roundhouse"\n{window}\n[model_providers.roundhouse]\n'
        f'name = "Roundhouse"\nbase_url = "{service.openai}"\nwire_api = "responses"\n'
        f'http_headers = {{ Authorization = "Bearer {service.key}" }}\n'
    )


def _opencode(service: Service) -> str:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Roundhouse",
        "options": {"baseURL": service.openai, "apiKey": service.key},
        "models": {model: {"name": model} | _opencode_limit(service, model) for model in service.models},
    }
    return _json({"provider": {"roundhouse": provider}, "model": f"roundhouse/{service.models[0]}"})


def _opencode_limit(service: Service, model: str) -> dict[str, Any]:
    limits = service.limits(model)
    return {"limit": dict(zip(("context", "output"), limits, strict=True))} if limits else {}


def _continue(service: Service) -> str:
    models = []
    for model in service.models:
        row = {"name": model, "provider": "openai", "model": model, "apiBase": service.openai, "apiKey": service.key}
        limits = service.limits(model)
        options = dict(zip(("contextLength", "maxTokens"), limits, strict=True)) if limits else {}
        models.append(row | ({"defaultCompletionOptions": options} if options else {}))
    return yaml.safe_dump({"name": "Roundhouse", "version": "1.0.0", "schema": "v1", "models": models}, sort_keys=False)


def _cline(service: Service) -> str:
    return f"cline auth -p openai -k {service.key} -m {service.models[0]} -b {service.openai}\n"


def _aider(service: Service) -> str:
    model = f"openai/{service.models[0]}"
    settings = {"openai-api-base": service.openai, "openai-api-key": service.key, "model": model}
    return yaml.safe_dump(settings, sort_keys=False)


def _open_webui(service: Service) -> str:
    return f"OPENAI_API_BASE_URL={service.openai} OPENAI_API_KEY={service.key} open-webui serve\n"


def _llm(service: Service) -> str:
    able = {"supports_tools": True, "supports_schema": True}  # else it does not send them, whatever the model can do
    models = [{"model_id": model, "model_name": model, "api_base": service.openai, **able} for model in service.models]
    return yaml.safe_dump(models, sort_keys=False)


def _python(service: Service) -> str:
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{service.openai}", api_key="{service.key}")\n'
        f'print(client.chat.completions.create(model="{service.models[0]}", '
        'messages=[{"role": "user", "content": "Hello!"}]))\n'
    )


CLIENTS = {
    client.name: client
    for client in (
        Client(
            "claude", _claude, ".claude/settings.json", "claude",
            "Its model picker lists only ids that begin with 'claude': give the model such an alias in the fleet file.",
        ),
        Client(
            "codex", _codex, ".codex/config.toml", "codex",
            "Use the model's own id. As gpt-5.5 or gpt-6 Codex sends tools that vLLM does not take.",
        ),
        Client("opencode", _opencode, ".config/opencode/opencode.json", "opencode"),
        Client("continue", _continue, ".continue/config.yaml", "cn"),
        Client("cline", _cline, None, "cline"),
        Client("aider", _aider, ".aider.conf.yml", "aider"),
        Client("open-webui", _open_webui, None, "open-webui serve"),
        Client("llm", _llm, ".config/io.datasette.llm/extra-openai-models.yaml", "llm -m MODEL 'Hello!'"),
        Client("python", _python, None, "python"),
    )
}  # fmt: skip


@click.command()
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Address of the service.")
@click.option("--key", default=NO_KEY, help="API key, or token of a signed-on user, if the service asks for one.")
@click.option("--model", help="Model to use first, instead of the first one that is served.")
@click.option("--write", is_flag=True, help="Write the client's settings file instead of printing it.")
def connect(client: str, url: str, key: str, model: str | None, write: bool) -> None:
    """Print the settings with which CLIENT uses a running service."""
    chosen, url = CLIENTS[client], url.rstrip("/").removesuffix("/v1")
    served = _served(url, key)
    if model and model not in served:
        raise click.ClickException(f"{url} does not serve '{model}'. It serves {', '.join(served)}.")
    models = tuple(dict.fromkeys([model, *served] if model else served))
    contexts = {name: length for name, length in served.items() if length}
    text = chosen.settings(Service(url, key, models, contexts))
    if not write:
        click.echo(f"# ~/{chosen.file}" if chosen.file else "# a command", err=True)
        click.echo(text, nl=False)
    elif chosen.file is None:
        raise click.ClickException(f"{client} has no settings file. Run the command that is printed without --write.")
    else:
        _write(Path.home() / chosen.file, text)
        click.echo(f"Wrote ~/{chosen.file}. Start it with: {chosen.run}", err=True)
    if is_token(key.encode()):
        click.echo(TOKEN_ADVICE, err=True)
    if chosen.advice:
        click.echo(chosen.advice, err=True)


def _served(url: str, key: str) -> dict[str, int | None]:
    """The ids that the service lists, those of models that can chat first, and their context lengths in tokens."""
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            rows = json.load(answer)["data"]
        ordered = sorted(rows, key=lambda row: "chat" not in row["capabilities"])
        return {row["id"]: row.get("context_length") for row in ordered}
    except urllib.error.HTTPError as error:
        error.close()
        why = "needs a key: --key" if key == NO_KEY else "does not accept this key for its list of models"
        said = why if error.code in (401, 403) else f"answers {error}"
        raise click.ClickException(f"{url} {said}") from None
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"no Roundhouse answers at {url}: {error}") from None


def _write(path: Path, text: str) -> None:
    """Writes the file. A JSON file that is there keeps its other settings; any other that is there is not touched."""
    if path.exists() and path.suffix == ".json":
        try:
            text = _json(_merged(json.loads(path.read_text(encoding="utf-8")), json.loads(text)))
        except (ValueError, AttributeError) as error:
            raise click.ClickException(f"{path} is not a JSON object: {error}") from None
    elif path.exists():
        raise click.ClickException(f"{path} is there already. Add what is printed without --write to it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)  # it holds the key
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {name: _merged(old[name], value) for name, value in new.items() if isinstance(old.get(name), dict)}
    return {**old, **new, **both}


COMMANDS = (connect,)
