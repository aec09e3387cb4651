"""Model folders without weights: a `config.json` of the published shape and a tokenizer, nothing to download.

With `--load-format dummy` the engine fills the network with random numbers of the right number and type, so that
memory and speed are those of the real weights; only the text is not.
"""

import json
from pathlib import Path

from service.architectures.config import config
from service.catalog.model import Model
from service.conformance import tokenizer


def write(model: Model, folder: Path, context: int) -> Path:
    """Makes the folder for `model`, whose network is known, and returns it. `context` is in positions."""
    assert model.network, "the plan leaves out what has no known network"
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos = model.tokens.bos, next(iter(model.tokens.eos), None)
    fields = config(model.architecture or "", model.network, model.shape, max(context, model.context or 0))
    fields |= {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": 0, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    tokenizer.write(folder, model.shape.vocab_size or 0, bos, eos)
    return folder
