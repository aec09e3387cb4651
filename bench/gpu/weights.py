"""Folders that stand for weights: a `config.json` of the published shape and a tokenizer, nothing to download.

With `--load-format dummy` the engine fills the network with random numbers of the right number and type, so that
memory and speed are those of the real weights; only the text is not.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from service.model import Model
from service.shapes.config import config

BYTES = 512  # the id of the first byte; no special token is among the 256 from here


def write(model: Model, folder: Path, context: int) -> Path:
    """Makes the folder for `model`, whose network is known, and returns it. `context` is in positions."""
    assert model.network, "the plan leaves out what has no known network"
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos = model.tokens.bos, next(iter(model.tokens.eos), None)
    fields = config(model.architecture or "", model.network, model.shape, max(context, model.context or 0))
    fields |= {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": 0, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    _tokenizer(folder, model.shape.vocab_size or 0, bos, eos)
    return folder


def _tokenizer(folder: Path, size: int, bos: int | None, eos: int | None) -> None:
    words = {f"<{number}>": number for number in range(size)}
    for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), BYTES):
        del words[f"<{number}>"]
        words[byte] = number
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {name: f"<{one}>" for name, one in (("bos_token", bos), ("eos_token", eos)) if one is not None}
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
