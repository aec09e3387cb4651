"""The benchmark of models that take turns: against first come, first served, in the same run."""

from xml.etree import ElementTree

from bench.sharing.__main__ import figures
from bench.sharing.loads import DAY_MEMORY, DAY_MODELS, day, mix
from bench.sharing.picture import draw
from bench.sharing.simulation import World, first_come, turns


def test_turns_have_at_least_twice_the_tokens_of_first_come_first_served() -> None:
    jobs = mix(0.5, seconds=60.0)
    ours, control = (figures(mix(0.5, seconds=60.0), policy, tick=0.5) for policy in (turns, first_come))
    assert ours["tokens_per_s"] >= 2 * control["tokens_per_s"]
    assert ours["loads"] < control["loads"] <= len(jobs)
    assert ours["ttft_p99_s"] < control["ttft_p99_s"]


def test_the_picture_shows_every_model_and_every_stay() -> None:
    until = 3 * 3600.0
    jobs = [job for job in day() if job.at < until]
    world = World([*DAY_MODELS.values()], DAY_MEMORY, 120.0, turns, tick=5.0).run(jobs, until)
    drawn = ElementTree.fromstring(draw([*DAY_MODELS], jobs, world, until))
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {*DAY_MODELS} <= texts
    assert len([*drawn.iter("{http://www.w3.org/2000/svg}rect")]) == 1 + len(world.timeline)
