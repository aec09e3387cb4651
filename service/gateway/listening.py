"""Where the service may listen: without an API key on loopback addresses only. Pure."""

from collections.abc import Iterable

from service.auth.keys import Keys
from service.config.loopback import is_loopback
from service.config.setting_types import MAKE_KEY
from service.config.settings import variable
from service.config.strict_yaml import ConfigError
from service.fleet.schema import Auth


def check_access(host: str, auth: Auth, keys: Keys | None) -> None:
    """Raises ConfigError where `host`, the address to listen on, would be open to others, or the two contradict."""
    if auth == "none" and keys is not None:
        names = " and ".join(map(variable, ("api_key", "api_key_file", "keys")))
        raise ConfigError([f"the fleet file says 'auth: none', and there are API keys: remove it, or unset {names}"])
    if is_open([host.lower()], auth, keys):
        raise ConfigError(
            [
                f"{host} can be reached from other machines, and no API key is set, so anyone could use the service:",
                f'  export {variable("api_key")}="$({MAKE_KEY})"',
                "  or listen on 127.0.0.1; or, where something else keeps strangers out, add 'auth: none' to the fleet "
                "file",
            ]
        )


def is_open(addresses: Iterable[str], auth: Auth, keys: Keys | None) -> bool:
    """Whether others reach one of these addresses and could use the service without a key, unasked for."""
    return auth == "keys" and keys is None and not all(map(is_loopback, addresses))


def describe(auth: Auth, keys: Keys | None) -> str:
    """Who may use the service, in one line."""
    if keys is not None:
        return f"API keys: {len(keys)}; every request but a probe needs one."
    if auth == "none":
        return "API keys: none, by 'auth: none' in the fleet file. Anyone who reaches the address may use the service."
    return f"API keys: none, so the service listens on loopback addresses only. {variable('api_key')} sets one."
