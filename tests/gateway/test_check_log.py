"""What the operator hears of the processes that check."""

import json

from service.gateway.check_log import CheckLog
from service.observability.metrics import Metrics


def test_what_cannot_be_checked_is_said() -> None:
    lines: list[str] = []
    log = CheckLog(Metrics(), lines.append)
    log.started(["xgrammar 0.2.8", "Pillow"])
    log.started([])
    log.died("deadline")
    complete, bare, dead = map(json.loads, lines)
    assert complete["found"] == ["xgrammar 0.2.8", "Pillow"] and "problems" not in complete
    assert [text.rpartition(" ")[2] for text in bare["problems"]] == ["xgrammar", "Pillow"]
    assert (dead["event"], dead["how"]) == ("check_process_died", "deadline")
