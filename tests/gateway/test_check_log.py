"""What the operator hears of the processes that check."""

import json

from service.gateway.check_log import CheckLog
from service.observability.metrics import Metrics
from tests.support.logs import log_to


def test_what_cannot_be_checked_is_said() -> None:
    lines: list[str] = []
    log = CheckLog(Metrics(), log_to(lines))
    log.started(["xgrammar 0.2.8", "Pillow"])
    log.started([])
    log.died("deadline")
    complete, bare, dead = map(json.loads, lines)
    assert [line["level"] for line in (complete, bare, dead)] == ["info", "warning", "warning"]
    assert complete["found"] == ["xgrammar 0.2.8", "Pillow"] and "problems" not in complete
    assert [text.rpartition(" ")[2] for text in bare["problems"]] == ["xgrammar", "Pillow"]
    assert (dead["event"], dead["how"]) == ("check_process_died", "deadline")
