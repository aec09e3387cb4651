"""docs/weights.md: its commands work as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleets import ROOT

PAGE = (ROOT / "docs/weights.md").read_text()


@pytest.mark.slow
def test_the_commands_of_the_page_work_in_their_order(tmp_path: Path) -> None:
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
    for line in ("example/pebble-chat: 6 files, 1.87 MB in ", "  revision unknown: the source has no commit"):
        assert line in PAGE
        assert line in done.stdout
    assert done.stdout.count("valid") == 2
    assert done.stdout.count("site.tar.part-0003: OK") == 1
    assert re.search(r"SHA-256 of out/SHA256SUMS: ([0-9a-f]{64})[\s\S]*\1  out/SHA256SUMS", done.stdout)
