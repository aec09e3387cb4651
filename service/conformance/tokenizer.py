"""Writes a byte-level tokenizer for untrained networks; every tokenizer class of transformers can load it."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

FIRST_BYTE_ID = 512  # none of the 256 ids from here belongs to a special token


def write(folder: Path, size: int, bos: int | None, eos: int | None) -> None:
    """Writes the files of a tokenizer with `size` tokens into `folder`; all tokens but the bytes are placeholders."""
    vocabulary = {f"<{number}>": number for number in range(size)}
    for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), FIRST_BYTE_ID):
        del vocabulary[f"<{number}>"]
        vocabulary[byte] = number
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {name: f"<{token}>" for name, token in (("bos_token", bos), ("eos_token", eos)) if token is not None}
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
