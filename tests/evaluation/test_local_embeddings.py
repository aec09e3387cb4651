"""Embeddings by a model in a folder."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleets import ROOT

MODEL = ROOT / "models/pebble/pebble-base"
MODES = ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_lasttoken")
TEXTS = ["The fox", "Once upon a time. The fox is called Toro.", "The fox"]
PROGRAM = """
import json, sys
from pathlib import Path
from service.evaluation.local_embeddings import embed
for folder in sys.argv[2:]:
    print(json.dumps(list(embed(Path(folder), json.loads(sys.argv[1])))))
"""


@pytest.mark.slow
def test_padding_is_in_no_vector_and_each_pooling_is_another(tmp_path: Path) -> None:
    folders = [tmp_path / mode for mode in MODES]
    for folder in folders:
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "1_Pooling/config.json").write_text(json.dumps({folder.name: True}))
        for file in MODEL.iterdir():
            (folder / file.name).symlink_to(file)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(TEXTS), *map(str, folders), str(MODEL)], cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    mean, first, last, unsaid = map(json.loads, done.stdout.splitlines())
    for short, long, again in (mean, first, last):
        assert len(short) == len(long) == 128 and all(map(math.isclose, short, again))
    (_, other, _), (beginning, _, _), (ending, _, _) = mean, first, last
    assert unsaid == mean and mean[0] != other and mean[0] != beginning != ending != mean[0]
