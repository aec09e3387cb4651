"""Variables that Kubernetes sets in each container for the Services of a namespace, which are no settings of ours."""

import re

# What a kubelet sets in every container for each Service of the namespace, here one named roundhouse or roundhouse-…:
# ROUNDHOUSE_SERVICE_HOST=10.0.0.1, ROUNDHOUSE_PORT=tcp://10.0.0.1:3000, ROUNDHOUSE_PORT_3000_TCP_ADDR=10.0.0.1, …
SERVICE_LINK = re.compile(
    r"ROUNDHOUSE_([A-Z0-9_]+_)?("
    r"SERVICE_HOST=.*|SERVICE_PORT(_[A-Z0-9_]+)?=.*|"
    r"PORT=(tcp|udp|sctp)://.*|PORT_\d+_(TCP|UDP|SCTP)(_ADDR|_PORT|_PROTO)?=.*)",
    re.DOTALL,
)


def is_service_link(name: str, text: str) -> bool:
    """Whether a kubelet has set the variable for a Service whose name begins with `roundhouse`."""
    return SERVICE_LINK.fullmatch(f"{name}={text}") is not None
