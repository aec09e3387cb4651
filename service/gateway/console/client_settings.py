"""The settings of client programs for a running service, which `roundhouse connect` and the console show. Pure."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

MAX_OUTPUT = 32_000  # tokens: more than that no client asks for by itself
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


def to_json(value: Any) -> str:
    """As settings files have it."""
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
    return to_json({"env": variables})


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
    return to_json({"provider": {"roundhouse": provider}, "model": f"roundhouse/{service.models[0]}"})


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


def contexts_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, int | None]:
    """The ids in the rows of `GET /v1/models`, those of models that can chat first, with their contexts in tokens.

    Raises KeyError or TypeError for rows that are none.
    """
    ordered = sorted(rows, key=lambda row: "chat" not in row["capabilities"])
    return {row["id"]: row.get("context_length") for row in ordered}


def service_for(url: str, key: str, contexts: Mapping[str, int | None], first: str | None = None) -> Service:
    """What a client needs to know, with the models of `contexts` in their order, but the one named `first` before."""
    models = tuple(dict.fromkeys([first, *contexts] if first else contexts))
    return Service(url, key, models, {name: length for name, length in contexts.items() if length})
