"""Folders that stand for weights: the published shape, and a tokenizer that reads any text."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.gpu import weights
from bench.gpu.experiments import SHAPES
from tests.support.fleets import CATALOG


@pytest.mark.parametrize("name", SHAPES)
def test_the_folder_has_the_published_shape_and_no_weights(tmp_path: Path, name: str) -> None:
    model = CATALOG.models[name]
    folder = weights.write(model, tmp_path / name, 2048)
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_size"] == model.shape.hidden_size
    assert config["vocab_size"] == model.shape.vocab_size
    assert config["max_position_embeddings"] == model.context
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json"}


def test_its_tokenizer_reads_what_it_writes(tmp_path: Path) -> None:
    weights.write(CATALOG.models["llama-2-7b-chat"], tmp_path, 2048)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode("[INST] Grüße <7>").ids
    assert tokenizer.decode(ids) == "[INST] Grüße <7>"
    assert tokenizer.get_vocab_size() == 32000
    assert tokenizer.token_to_id("<2>") == 2, "the end of text has the id that the catalogue says"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<2>"
