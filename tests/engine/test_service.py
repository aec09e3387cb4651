"""The names of the BentoML services of engines."""

import re

import pytest

from service.engine.service import service_name


def test_an_ordinary_id_is_a_part_of_the_name() -> None:
    assert service_name("llama-2-13b_chat.v1", 1, 7) == "engine-llama-2-13b_chat.v1-1"


@pytest.mark.parametrize("model", ["qwen3:8b", "x@1", "claude[1m]", "模型", "größe"])
def test_other_ids_have_a_name_that_fits_into_a_command_line(model: str) -> None:
    names = {service_name(model, number, number) for number in range(3)} | {service_name("模x", 0, 3)}
    assert len(names) == 4
    assert all(re.fullmatch(r"engine-\d-[a-z0-9.-]+-\d", name) for name in names)
