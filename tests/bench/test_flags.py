"""The flags that the installed vLLM lacks, known before an engine is started."""

from pathlib import Path

import pytest

from bench.gpu import flags, lab
from bench.gpu.schedule import Setup, Subject
from service.engine.argv import DEFAULTS, argv
from tests.support.fleets import CATALOG

MODEL = "llama-2-7b-chat"


def release(folder: Path, text: str) -> Path:
    """A vLLM whose source declares what `text` says."""
    for path in ("engine/arg_utils.py", "entrypoints/openai/cli_args.py"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text if "cli_args" in path else "class EngineArgs: ...")
    return folder


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("disable_access_log_for_endpoints: str", {"max_num_queued_reqs"}),
        ("'--disable-access-log-for-endpoints', '--max-num-queued-reqs'", set()),
        ("", set(DEFAULTS)),
    ],
)
def test_a_flag_that_the_source_does_not_name_is_lacking(tmp_path: Path, text: str, lacking: set[str]) -> None:
    assert flags.lacking(release(tmp_path, text)) == lacking


def test_without_a_source_nothing_is_said_to_be_lacking(tmp_path: Path) -> None:
    assert flags.lacking(tmp_path) == flags.lacking(None) == frozenset()


def test_the_installed_release_has_them_all() -> None:
    vllm = flags.installed()
    assert vllm
    assert flags.lacking(vllm) == frozenset()


def test_engines_of_the_kit_are_started_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = release(tmp_path / "vllm", "disable_access_log_for_endpoints: str")
    monkeypatch.setattr(flags, "installed", lambda: source)
    subject = Subject(CATALOG.models[MODEL], "bf16", 4096)
    (served,) = lab.write_fleet(Setup(MODEL, (subject,), 1.0), tmp_path, 1)
    command = argv(served, ["vllm", "serve"], tmp_path / "e0.sock", 20.0)
    assert "--max-num-queued-reqs" not in command
    assert "--disable-access-log-for-endpoints" in command
