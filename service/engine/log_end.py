"""The end of an engine's log as evidence: vLLM's own words, without what they may quote of a request."""

import re
from collections.abc import Iterable, Iterator

MAX_LENGTH = 300  # characters of a line
FRAME = re.compile(r'^\s*File ".+", line \d+(?:, in .+)?$')
# What follows is, or may be, a part of a request: in vLLM's, pydantic's and Jinja's messages.
SAID = re.compile(
    r"(\b(?:input_value|value|prompts?|inputs?|texts?|content|messages?|body|arguments|got)['\"]?\s*[=:]).*",
    re.IGNORECASE,
)
# Errors of a single request, whose message may be anything that it had.
REQUEST_ERROR = re.compile(r"(\b(?:\w*Validation|\w*Template|JSON\w*|Unicode\w*|BadRequest)Error:).*")
NUMBERS = re.compile(r"(\[)\s*\d+(?:\s*,\s*\d+){3,}.*")  # token ids are a prompt too
QUOTED = re.compile(r"""(?<!\w)(['"`]).*?(?:\1(?!\w)|$)""")
ELLIPSIS = "…"


def redacted(lines: Iterable[str]) -> Iterator[str]:
    """Each line without quotations, lists of numbers and what follows a word such as `prompt:`; frames stay whole."""
    for line in lines:
        if not FRAME.match(line):
            for pattern in (REQUEST_ERROR, SAID, NUMBERS):
                line = pattern.sub(rf"\1 {ELLIPSIS}", line)
            line = QUOTED.sub(ELLIPSIS, line)
        yield line[:MAX_LENGTH]
