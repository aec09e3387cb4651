"""The files of the console's page, which anybody may load: they say nothing of this service but where users sign in."""

from pathlib import Path
from urllib.parse import urlsplit

from service.auth.sign_on import SignOn
from service.errors import ApiError, ErrorCode
from service.server.asgi import Headers, Receive, Scope, Send, headers_by_name, respond, respond_json

PATH = "/console"
FOLDER = Path(__file__).parent / "static"
PAGE = "index.html"
FILES = (
    "api.js", "app.js", "chart.js", "console.css", "dom.js", "fleet.js", "icon.svg", "playground.js", "settings.js",
    "sign-in.js", "snippets.js",
)  # fmt: skip
STATE, LOAD, CLIENT_SETTINGS, SIGN_IN = (f"{PATH}/api/{name}" for name in ("state", "load", "clients", "sign-in"))
FILE = f"{PATH}/{{file}}"  # the name of their paths in the table of endpoints
OPEN_PATHS = frozenset(path.encode() for path in (PATH, f"{PATH}/", SIGN_IN, *(f"{PATH}/{name}" for name in FILES)))
TYPES = {"css": b"text/css", "html": b"text/html", "js": b"text/javascript", "svg": b"image/svg+xml"}
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Page:
    """Serves the files of FOLDER, which are read once; `sign_on` says where users may sign in, and can be replaced."""

    def __init__(self, sign_on: SignOn | None) -> None:
        self._files = {name: (FOLDER / name).read_bytes() for name in (PAGE, *FILES)}
        self.sign_on = sign_on

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page itself."""
        await self._respond(PAGE, send)

    async def show_file(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A script, a style or the icon; raises ApiError 404."""
        name = scope["path"].removeprefix(f"{PATH}/")
        if name not in FILES:
            raise ApiError(ErrorCode.UNKNOWN_URL, f"The console has no file '{name[:64]}'.")
        await self._respond(name, send)

    async def show_sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Where users of the page sign in, as `issuer` and `client_id`; nothing where they cannot."""
        found = self._client
        await respond_json(send, {"issuer": found.issuer, "client_id": found.client_id} if found else {}, SECURITY)

    @property
    def _client(self) -> SignOn | None:
        return self.sign_on if self.sign_on and self.sign_on.client_id else None

    async def _respond(self, name: str, send: Send) -> None:
        kind = TYPES[name.rpartition(".")[2]] + b"; charset=utf-8"
        policy = POLICY
        if found := self._client:
            parts = urlsplit(found.issuer)
            policy += f"; connect-src 'self' {parts.scheme}://{parts.netloc}"
        headers = ((b"content-type", kind), (b"content-security-policy", policy.encode()), *SECURITY)
        await respond(send, 200, self._files[name], headers)


async def redirect(send: Send, location: str, more: Headers = ()) -> None:
    """Sends a browser to a path that is relative to where it is, so that a prefix before the gateway stays."""
    await respond(send, 307, b"", ((b"location", location.encode()), *more))


async def redirect_to_page(scope: Scope, receive: Receive, send: Send) -> None:
    """From the path with a slash at its end, from which the page's own links would lead elsewhere."""
    await redirect(send, f"..{PATH}")


def asks_for_page(scope: Scope) -> bool:
    """Whether a browser opens the gateway's address: no program does that says what kinds of answer it takes."""
    if scope["raw_path"] != b"/" or scope["method"] != "GET":
        return False
    return b"text/html" in headers_by_name(scope).get(b"accept", b"")
