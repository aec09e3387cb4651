"""docs/weights.md: its commands, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.fleets import ROOT

PAGE = (ROOT / "docs/weights.md").read_text()


def test_the_commands_of_the_page_work_in_its_order(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    bin_folder = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROUNDHOUSE_", "HF_"))}
    environment |= {
        "PATH": f"{bin_folder}:{environment['PATH']}", "TMPDIR": str(tmp_path), "COLUMNS": "200",
    }  # fmt: skip
    script = "set -ex\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in ("example/pebble-chat: 6 files, 1.87 MB in ", "  revision unknown: the source does not tell"):
        assert line in PAGE
        assert line in done.stdout
    assert done.stdout.count("as pulled") == 2
    assert re.search(r"SHA-256 of site.json: ([0-9a-f]{64})[\s\S]*\1  out/site.json", done.stdout)
