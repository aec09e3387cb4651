"""Which names and addresses mean this machine alone."""

from ipaddress import ip_address


def is_loopback(name: str) -> bool:
    """Whether it is a loopback address, or a name that can only mean one (RFC 6761)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
