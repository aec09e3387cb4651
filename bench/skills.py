"""Whether the right model answers in the right format: the Pebble family's accuracy through a running service, by HTTP.

    python -m bench.skills --url http://127.0.0.1:3000 --count 200 --json skills.json

Three columns per variant. Own format: the requests as a client sends them. Wrong template: the same requests rendered
in another family's format and sent raw to the same model. Wrong variant: the same requests sent to a sibling. An answer
counts when it is exactly the expected text, so a gateway that damages a prompt, or sends it to another model, falls
from the first column's figure to those of the other two.
"""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.pebble.skills import SIBLING, VARIANTS, Case, Variant, addressed_to, held_out, rendered, wrong_template

Request = tuple[str, dict[str, Any]]  # path under /v1, and the body
LIMIT = 48  # tokens; the longest right answers have about forty


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracies of one variant in percent, and how many of its requests ended in an HTTP error."""

    variant: Variant
    own_format: float
    wrong_template: float
    wrong_variant: float
    errors: int


def raw(model: Variant, prompt: str) -> Request:
    """A plain completion."""
    return "completions", {"model": f"pebble-{model}", "prompt": prompt, "max_tokens": LIMIT, "temperature": 0}


def request(case: Case, direct: bool = False) -> Request:
    """The request a client would send; `direct` renders infilling prompts, which bare vLLM does not."""
    if case.messages:
        _, body = raw(case.variant, "")
        del body["prompt"]
        return "chat/completions", {**body, "messages": [message.json() for message in case.messages]}
    if case.suffix is None or direct:
        return raw(case.variant, rendered(case))
    path, body = raw(case.variant, case.prompt)
    return path, {**body, "suffix": case.suffix}


def ask(url: str, key: str | None, request: Request) -> str | None:
    """The text of the answer, None after an HTTP error."""
    path, body = request
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    call = urllib.request.Request(f"{url.rstrip('/')}/v1/{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(call, timeout=300) as response:
            choice = json.load(response)["choices"][0]
    except urllib.error.HTTPError as error:
        error.close()
        return None
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def measured(url: str, key: str | None, variant: Variant, cases: Sequence[Case], direct: bool, show: int) -> Row:
    """One row of the table; prints the first `show` answers in the own format that are wrong."""
    columns = (
        [request(case, direct) for case in cases],
        [raw(variant, wrong_template(case)) for case in cases],
        [request(addressed_to(case, SIBLING[variant]), direct) for case in cases],
    )
    with ThreadPoolExecutor(16) as pool:
        answers = [list(pool.map(lambda r: ask(url, key, r), requests)) for requests in columns]
    missed = [(case, answer) for case, answer in zip(cases, answers[0], strict=True) if answer != case.answer]
    for case, answer in missed[:show]:
        print(f"  {rendered(case)!r}\n    expected {case.answer!r}, got {answer!r}")
    right = [sum(a == case.answer for a, case in zip(column, cases, strict=True)) for column in answers]
    own, template, sibling = (100 * hits / len(cases) for hits in right)
    return Row(variant, own, template, sibling, sum(column.count(None) for column in answers))


def main() -> None:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="address of the service, without /v1")
    parser.add_argument("--key", help="API key, where the service wants one")
    parser.add_argument("--count", type=int, default=200, help="held-out cases per figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="measure only this one (may be repeated)")
    parser.add_argument("--direct", action="store_true", help="render infilling prompts here, for bare vLLM")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers per variant")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    print("variant  | own format | wrong template | wrong variant | HTTP errors")
    rows = []
    for variant in options.variant or VARIANTS:
        cases = held_out(variant, options.count, options.seed)
        row = measured(options.url, options.key, variant, cases, options.direct, options.show)
        rows.append(row)
        figures = (
            f"{row.own_format:8.1f} % | {row.wrong_template:12.1f} % | {row.wrong_variant:11.1f} % | {row.errors:11}"
        )
        print(f"{variant:8} | {figures}", flush=True)
    if options.json:
        report = {"count": options.count, "seed": options.seed, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
