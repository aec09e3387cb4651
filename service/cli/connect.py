"""`roundhouse connect`: the settings that a client program needs to use a running service."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from service.auth.sign_on import is_token
from service.gateway.console.client_settings import CLIENTS, NO_KEY, contexts_of, service_for, to_json

TOKEN_ADVICE = "The key is a token of a user: when it has expired, the settings need a new one, or an API key instead."


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
    text = chosen.settings(service_for(url, key, served, model))
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
            return contexts_of(json.load(answer)["data"])
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
            text = to_json(_merged(json.loads(path.read_text(encoding="utf-8")), json.loads(text)))
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
