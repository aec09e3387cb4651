"""The types of settings: what the text of a variable must be."""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

SHORTEST_KEY = 16  # characters
PRINTABLE = re.compile(r"[\x21-\x7e]{1,256}")
MAKE_KEY = "python3 -c 'import secrets; print(\"rh_\" + secrets.token_urlsafe(32))'"


def expanded(path: Path) -> Path:
    """The path with `~` replaced by the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  unlike Path's own it does not fail where there is no home


def _host_names(text: str) -> str:
    for name in filter(None, map(str.strip, text.split(","))):
        if name != "*" and not re.fullmatch(r"[A-Za-z0-9._-]+", name) and not _is_ip_address(name.strip("[]")):
            raise ValueError(f"it should be host names without port, separated by commas, and '{name}' is none")
    return text


def _strong(key: SecretStr) -> SecretStr:
    if key.get_secret_value():
        check_key(key.get_secret_value())
    return key


def check_key(key: str) -> None:
    """Raises ValueError, which does not repeat it, where a key can be guessed or cannot stand in a header."""
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"a key has at least {SHORTEST_KEY} characters. A good one: {MAKE_KEY}")
    if not PRINTABLE.fullmatch(key):
        raise ValueError(f"a key has at most 256 printable ASCII characters, and no spaces. A good one: {MAKE_KEY}")


def _named_keys(text: SecretStr) -> SecretStr:
    keys_by_name(text)
    return text


def keys_by_name(text: SecretStr) -> dict[str, str]:
    """The keys of `NAME=KEY,…` by name. Raises ValueError, which does not repeat them, for what is none."""
    found = {}
    for row in filter(str.strip, text.get_secret_value().split(",")):
        name, _, key = row.partition("=")
        if not name.strip() or not PRINTABLE.fullmatch(key.strip()):
            raise ValueError("it should be NAME=KEY, separated by commas, with keys of printable ASCII without spaces")
        found[name.strip()] = key.strip()
    return found


def _redis_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if text and not re.fullmatch(r"(redis|rediss)://[^/\s]+(/\d+)?(\?\S*)?|unix://\S*/\S+", text):
        raise ValueError("it should be redis://HOST:PORT/NUMBER, rediss://… or unix:///PATH, with :PASSWORD@ before it")
    return url


def _is_ip_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


UserPath = Annotated[Path, AfterValidator(expanded)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Files = Annotated[int, Field(ge=1, le=1000)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
CarriedLog = Literal["off", "errors", "all"]
HostNames = Annotated[str, AfterValidator(_host_names)]
NamedKeys = Annotated[SecretStr, AfterValidator(_named_keys)]
ApiKey = Annotated[SecretStr, AfterValidator(_strong)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
