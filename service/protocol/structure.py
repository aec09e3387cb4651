"""How much structure a JSON text has: how deep its objects and lists lie within one another, and how many there are.

What goes down into a body by recursion, as validators and templates of engines do, fails at depths that the gateway's
own parser takes. And to look into every object takes a hundred times as long as to read as many bytes of text.
"""

from service.errors import ApiError, ErrorCode
from service.fleet.request_bounds import RequestBounds

LARGE = 2**17  # bytes; the structure of a smaller body takes no time to speak of, whatever it is
OTHERS = bytes(set(range(256)) - set(b'{}[]"'))


def check_structure(body: bytes, bounds: RequestBounds) -> None:
    """Raises the 400 for a valid JSON `body` with more structure than the bounds allow. Brackets in texts are none."""
    most = bounds.json_depth + 1  # of each, and no more are looked for: unlike `count` it does not look at every byte
    if len(body) - len(body.replace(b"{", b"", most).replace(b"[", b"", most)) < most:
        return
    if len(body) > LARGE:
        _check_members(body, bounds.json_members)
    if _is_deeper(body.translate(None, OTHERS + b'"'), bounds.json_depth) and _is_deeper(
        _without_texts(body), bounds.json_depth
    ):
        text = f"it has more than {bounds.json_depth} objects and lists within one another"
        raise ApiError(ErrorCode.INVALID_JSON, f"The body is nested too deeply: {text}.")


def _check_members(body: bytes, most: int) -> None:
    strings = (body.count(b'"') - body.count(b'\\"')) // 2  # a text that ends with a backslash counts as half of one
    if strings > most or (_brackets(body) > most and _brackets(_without_texts(body)) > most):
        text = f"at most {most} strings, and as many objects and lists, are read in one body. Send less at a time"
        raise ApiError(ErrorCode.INVALID_JSON, f"The body has too many parts: {text}.")


def _brackets(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _without_texts(body: bytes) -> bytes:
    """The brackets of the objects and lists."""
    quoted = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, OTHERS)
    return b"".join(quoted.split(b'"')[::2])


def _is_deeper(brackets: bytes, most: int) -> bool:
    """Whether some of the brackets are left after `most` levels of them have been taken away from within."""
    for _ in range(most):
        fewer = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if not fewer:
            return False
        if len(fewer) == len(brackets):
            return True
        brackets = fewer
    return bool(brackets)
