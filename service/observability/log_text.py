"""Lines of the log as people read them on a terminal, made from the lines of JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.observability.log_lines import Line, text_of

RESET, DIM, BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
RED, GREEN, YELLOW, CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
COLOURS = {"debug": DIM, "info": GREEN, "warning": YELLOW, "error": RED}
SHOWN_FIRST = ("time", "level", "event")


def encoded(lines: Sequence[Line], coloured: bool) -> bytes:
    """The lines as text, each with its end."""
    return "".join(f"{render(text_of(line), coloured)}\n" for line in lines).encode(errors="backslashreplace")


def render(line: str, coloured: bool) -> str:
    """The line of JSON as text. No character of a value reaches the terminal as a control character."""
    fields: dict[str, Any] = json.loads(line)
    level, event = str(fields.get("level", "info")), str(fields.get("event", ""))
    when = str(fields.get("time", ""))[11:19]
    rest = _request(fields, coloured) if event == "request" else _event(fields, coloured)
    head = f"{fields['status']}" if event == "request" else f"{level:7}"
    return f"{_paint(when, DIM, coloured)} {_paint(head, COLOURS.get(level, ''), coloured)} {rest}"


def _request(fields: Mapping[str, Any], coloured: bool) -> str:
    """What came of a request, the usual first."""
    replica, model = _plain(fields["replica"]), _plain(fields["model"])
    parts = [_plain(fields["endpoint"]), _paint(replica or model or _plain(fields["requested"]), CYAN, coloured)]
    if fields["outcome"] != "complete":
        text = " ".join(_plain(fields[name]) for name in ("outcome", "code", "reason") if fields[name])
        parts.append(_paint(text, COLOURS[fields["level"]], coloured))
    if fields["prompt_tokens"] or fields["completion_tokens"]:
        cached = f" ({fields['cached_tokens']} cached)" if fields["cached_tokens"] else ""
        parts.append(f"{fields['prompt_tokens']}{cached} + {fields['completion_tokens']} tokens")
    if fields["streamed"] and fields["ttft_s"] is not None:
        parts.append(f"first after {_seconds(fields['ttft_s'])}")
    if fields["duration_s"] is not None:
        parts.append(_seconds(fields["duration_s"]))
    if fields["attempts"] > 1:
        parts.append(f"{fields['attempts']} attempts")
    if fields["replayed"]:
        parts.append("replayed")
    parts += [_plain(fields["tenant"]), _paint(fields["request_id"], DIM, coloured)]
    return "  ".join(filter(None, parts))


def _event(fields: Mapping[str, Any], coloured: bool) -> str:
    """An event with all its fields; what an engine or a library wrote stands by itself."""
    if "message" in fields and fields["event"] in ("engine", "message"):
        source = _plain(fields.get("replica") or fields.get("logger"))
        lines = str(fields["message"]).split("\n")
        return f"{_paint(source, CYAN, coloured)}  " + "\n    ".join(map(_plain, lines))
    shown = [f"{name}={_value(value)}" for name, value in fields.items() if name not in SHOWN_FIRST and value != []]
    return "  ".join([_paint(_plain(fields.get("event")), BOLD, coloured), *shown])


def _value(value: object) -> str:
    return "; ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)


def _plain(value: object) -> str:
    """The value as text in which everything that a terminal could obey is escaped, and half characters are."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _paint(text: str, colour: str, coloured: bool) -> str:
    return f"{colour}{text}{RESET}" if coloured and text else text


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
