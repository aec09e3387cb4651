"""docs/errors.md, written from the table of error codes: python -m service.cli.error_reference > docs/errors.md"""

import json
from collections.abc import Iterator

from service.errors import ANTHROPIC_TYPES, ApiError, ErrorCode, anthropic_body, openai_body

EXAMPLE = ApiError(
    ErrorCode.OVERLOADED,
    "'pebble-chat' is busy: its queue is full (64 requests). Try again in 3 s.",
)
INTRODUCTION = """\
# Errors

<!-- Written by `python -m service.cli.error_reference > docs/errors.md` from service/errors/codes.py. -->

Why a request was refused or failed, and what to do about it. An error is a JSON body in the format that the client's
library expects. From OpenAI's endpoints:

```json
{openai}
```

From Anthropic's, which are those below `/v1/messages`:

```json
{anthropic}
```

- **`code`** is for programs: it is one of the codes below and does not change. **`message`** is for people, and says
  what was wrong with this request and what to do. **`param`** is the field of the request that is at fault, or `null`.
- **The status** belongs to the code. Once a stream has begun, its status is 200, and an error is its last event: the
  same fields, and no `[DONE]` or `message_stop` after it.
- **`Retry-After`** says in whole seconds when to try again. Every 429 and 503 has it, and others where that is known.
- **Retries**: the libraries of OpenAI and Anthropic repeat a request on their own after 408, 409, 429 and 5xx, twice by
  default, and heed `Retry-After`. The gateway itself has then already tried another replica where that was safe.
- **`type`** is a coarser class. In Anthropic's format it follows from the status alone: {types}; otherwise
  `invalid_request_error` below 500 and `api_error` from there on.
- **`x-request-id`**, a header of the answer, finds the request's line in the gateway's log, which has the same `code`.
"""
# Title, what the errors have in common, and which statuses they have.
SECTIONS = (
    (
        "The request is at fault",
        "As a rule, repeating it unchanged gives the same error.",
        (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 431),
    ),
    ("The service is busy or not ready", "The same request can succeed later.", (429, 503)),
    ("The service failed", "The same request can succeed when it is repeated.", (500, 502, 504)),
)
HEAD = "| code | status | type | when | what to do |\n|---|--:|---|---|---|"


def document() -> str:
    """All of docs/errors.md, without the last line break."""
    types = ", ".join(f"{status} `{name}`" for status, name in ANTHROPIC_TYPES.items())
    openai, anthropic = (_shown(body(EXAMPLE)) for body in (openai_body, anthropic_body))
    introduction = INTRODUCTION.format(openai=openai, anthropic=anthropic, types=types)
    return "\n".join([introduction, *_sections()]).rstrip()


def _shown(body: bytes) -> str:
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def _sections() -> Iterator[str]:
    for title, about, statuses in SECTIONS:
        yield from (f"## {title}\n", f"{about}\n", HEAD)
        yield from (_row(code) for code in ErrorCode if code.status in statuses)
        yield ""


def _row(code: ErrorCode) -> str:
    return f"| `{code}` | {code.status} | `{code.type}` | {code.when} | {code.remedy} |"


if __name__ == "__main__":
    print(document())
