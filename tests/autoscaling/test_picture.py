"""Pictures of simulations."""

import xml.etree.ElementTree as ET

import pytest

from service.autoscaling.autoscaler import Fixed
from service.autoscaling.picture import POINTS, draw, thinned, ticks
from service.autoscaling.simulation import Arrival, Simulation, Site

SVG = "{http://www.w3.org/2000/svg}"


def test_a_picture_has_a_line_for_each_run_in_each_panel() -> None:
    runs = {
        name: Simulation(Site(1, initial=number), Fixed(number), 1.0).run([Arrival(5.0, 3, 60.0, 0.0)], 100.0)
        for name, number in (("1 <replica>", 1), ("2 replicas", 2))
    }
    tree = ET.fromstring(draw(runs))
    texts = [one.text for one in tree.iter(f"{SVG}text")]
    assert "1 <replica>" in texts
    lines = [one for one in tree.iter(f"{SVG}path") if one.get("fill") == "none"]
    assert len(lines) == 1 + 2 * 2 + 2  # arrivals; ordered and ready; queued
    assert len({one.get("stroke") for one in lines}) == 3
    assert "2" in texts  # the highest of the replicas, and of the queue
    assert draw(runs) == draw(runs)


def test_a_thin_line_keeps_its_peak() -> None:
    line = [(float(at), 1.0) for at in range(5000)]
    line[1234] = (1234.0, 9.0)
    assert len(thinned(line)) <= POINTS
    assert max(value for _, value in thinned(line)) == 9.0


@pytest.mark.parametrize(
    ("until", "last"),
    [(90.0, "90 s"), (600.0, "10 min"), (3600.0, "60 min"), (86_400.0, "20 h"), (7 * 86_400.0, "7 d")],
)
def test_the_axis_of_time_has_round_numbers(until: float, last: str) -> None:
    found = ticks(until)
    assert 4 <= len(found) <= 9
    assert found[-1][1] == last
