"""The report: every figure with its card, driver, release, date and command, and none that was not measured."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bench.gpu import report, results, tables
from bench.gpu.measures import MEASURES
from bench.gpu.results import Result
from tests.bench import made_up
from tests.support.fleets import ROOT

CARD = "nvidia-h200"


def written(folder: Path, found: list[Result]) -> Path:
    for one in found:
        results.write_result(folder / CARD, one)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> str:
    return report.page(written(tmp_path, made_up.RESULTS), "there")


def table(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    section = page.split(f"#### {title}")[1].split("####")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def test_the_page_is_what_the_results_say() -> None:
    assert report.page(report.RESULTS) == report.PAGE.read_text(encoding="utf-8"), "run: bench/gpu/report"


def test_the_plots_are_those_of_the_results() -> None:
    for folder in report.folders(report.RESULTS):
        measured = [one for one in results.read_results(folder) if one.outcome == "measured"]
        for name, picture in tables.plots(measured).items():
            assert (folder / "plots" / f"{name}.svg").read_text() == picture.svg(), "run: bench/gpu/report"
            assert (folder / "plots" / f"{name}.png").is_file()


def test_without_results_it_says_so_and_shows_no_figure(tmp_path: Path) -> None:
    (tmp_path / "serve.json").write_text("{}")  # the results of other measurements lie there too
    text = report.page(tmp_path)
    assert "Nothing was measured on a GPU yet" in text
    assert "###" not in text.split("## Results")[1]


def test_every_measure_has_a_table() -> None:
    assert {measure for one in tables.TABLES for measure in one.measures} == set(MEASURES)


def test_every_table_says_where_its_figures_are_from(page: str) -> None:
    sections = page.split("#### ")[1:]
    of = "NVIDIA H200, driver 580.95, vLLM 0.32.0, Python 3.12.1, 16 cores, Some Processor, 2026-12-24"
    for section in sections:
        if not section.startswith("Plots"):
            assert f"{of}: `{made_up.COMMAND}`" in section, section
    assert len(sections) == len(tables.TABLES) + 2
    assert "Nothing was measured" not in page


def test_what_came_of_other_commands_or_drivers_says_so(tmp_path: Path) -> None:
    later = replace(made_up.RESULTS[1], command="bench/gpu/run --only falcon", where=made_up.WHERE | {"driver": "999"})
    text = report.page(written(tmp_path, [made_up.RESULTS[0], later]))
    starts = text.split("#### Starts")[1]
    assert "driver 580.95" in starts
    assert "driver 999" in starts
    assert "`bench/gpu/run --only falcon`" in starts


@pytest.mark.parametrize(
    ("title", "row"),
    [
        ("Starts", "llama-2-7b-chat llama-2-7b-chat bf16 4096 61.5 12.5 129.0 13,000 13,130 +1.0% +0.0%"),
        ("Loads", "llama-2-7b-chat short 32 service 40 3,960.0 12.5 13.5 14.5 12.5 13.5 14.5 0.99 31.5"),
        ("Loads", "llama-2-7b-chat short 1 direct 40 150.0 11.0 12.0 13.0 11.0 12.0 13.0 – –"),
        ("The short chat by vLLM's own", "llama-2-7b-chat 8 direct 1,234.5 11.0 12.0 13.0 11.0 12.0 13.0"),
        ("The short chat by vLLM's own", "llama-2-7b-chat 8 service it broke – – – – – –"),
        ("Continuous batching", "llama-2-7b-chat 32 151.0 4,100.0 27.15"),
        ("Prefix cache", "llama-2-7b-chat+no-prefix-cache off 32 2,222.0 11.0 12.0 13.0"),
        ("Chunked prefill", "llama-2-7b-chat on 21.5 22.5 23.5 91.5"),
        ("Rates against bounds", "llama-2-7b-chat decode, streams: 1 251.5 340.5 0.739"),
        ("Rates against bounds", "llama-2-7b-chat prefill, 3072 tokens 40,404.0 70,707.0 0.571"),
        ("Two models on one card, memory split", "llama-2-7b-chat+split llama-2-7b 32 4,445.0 2,445.0 13.75"),
        ("Two models on one card, taking turns", "llama-2-7b-chat+sleep llama-2-7b 1 2.25 2 0.75 14.0 3.014"),
        ("One model stopped", "llama-2-7b-chat llama-2-7b-chat 1.5 38.5 15.0 41.5"),
        ("What failed", "mixtral-8x7b-instruct-v0.1/start no kernel for \\| this 2026-12-24T10:00:00+00:00"),
    ],
)
def test_a_figure_stands_in_its_table(page: str, title: str, row: str) -> None:
    assert row in [" ".join(cells) for cells in table(page, title)]


def test_the_targets_are_judged_by_what_was_measured(page: str) -> None:
    rows = [line for line in page.splitlines() if line.endswith(("| met |", "| missed |", "| not measured |"))]
    assert rows == [
        "| TTFT p50 added, streams: 1 | ≤ 2 ms | 0.7 | met |",
        "| tokens/s through the service, streams: 32 | ≥ 0.98 of direct | 0.99 | met |",
        "| TTFT p50 added, streams: 32 | ≤ 2 ms | 1.5 | met |",
        "| tokens/s through the service, streams: 256 | ≥ 0.98 of direct | 0.9167 | missed |",
        "| TTFT p50 added, streams: 256 | ≤ 2 ms | 2.5 | missed |",
        "| planned KV blocks, falcon-7b-instruct: falcon-7b-instruct | ± 2% | +10.0% | missed |",
        "| planned KV blocks, llama-2-7b-chat: llama-2-7b-chat | ± 2% | +1.0% | met |",
    ]
    assert "| not measured |" in tables.targets([])


def test_few_requests_are_not_judged() -> None:
    (short,) = (one for one in made_up.RESULTS if one.experiment == "llama-2-7b-chat/short")
    row = short.figures["loads"][0]
    few = {**row, "service": {**row["service"], "requests": 2}}
    text = tables.targets([replace(short, figures={**short.figures, "loads": [few]})])
    assert "| TTFT p50 added, streams: 1 | ≤ 2 ms | 0.7 | too few requests: 2 |" in text


def test_a_rehearsal_is_no_figure_of_a_gpu(tmp_path: Path) -> None:
    tried = replace(made_up.RESULTS[2], where=made_up.WHERE | {"card": None, "driver": None, "rehearsal": True})
    text = report.page(written(tmp_path, [tried]))
    assert "Nothing was measured on a GPU yet" in text
    assert "Its figures say nothing about any GPU." in text
    assert "| bar |" not in text


def test_plots_are_drawn_as_svg_and_png(tmp_path: Path) -> None:
    files = {path.name: path for path in report.draw(written(tmp_path, made_up.RESULTS))}
    stems = ("kv-blocks", "llama-2-7b-chat-short-tokens", "llama-2-7b-chat-short-ttft")
    assert set(files) == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    for name, path in files.items():
        if name.endswith(".svg"):
            texts = [element.text for element in ET.fromstring(path.read_text()).iter() if element.text]
            wanted = {"vLLM", "planned"} if name.startswith("kv") else {"direct", "service", "1", "32", "256"}
            assert wanted <= set(texts)
        else:
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(2**24) or ()) > 3, "something was drawn"
    assert report.folders(tmp_path) == [tmp_path / CARD]
    assert results.read_results(tmp_path / CARD), "plots are not taken for results"


def test_higher_values_are_drawn_higher(tmp_path: Path) -> None:
    report.draw(written(tmp_path, made_up.RESULTS))
    drawn = ET.fromstring((tmp_path / CARD / "plots/llama-2-7b-chat-short-tokens.svg").read_text())
    lines = [one.attrib["points"].split() for one in drawn.iter() if one.attrib.get("stroke-width") == "2.2"]
    heights = [[float(point.split(",")[1]) for point in points] for points in lines]
    assert len(heights) == 2
    assert all(first > second > third for first, second, third in heights)
    assert heights[0][2] < heights[1][2], "12,000 tokens/s stand above 11,000"


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "results", made_up.RESULTS)
    report.main(["--results", str(tmp_path / "results"), "--page", str(tmp_path / "gpu.md")])
    assert "12,000.0" in (tmp_path / "gpu.md").read_text()
    assert "6 files of plots" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        report.main(["--results", str(tmp_path / "nowhere")])


def test_the_launchers_can_be_run() -> None:
    for name in ("run", "report", "pack"):
        assert (ROOT / "bench/gpu" / name).stat().st_mode & 0o111
