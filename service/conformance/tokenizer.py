"""A tokenizer for networks that nobody trained: one of bytes, the kind that every class of tokenizer can read."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BYTES = 512  # the id of the first byte; no special token is among the 256 from here


def write(folder: Path, size: int, bos: int | None, eos: int | None) -> None:
    """Writes the files of a tokenizer with `size` tokens into `folder`; all but the bytes are words of no meaning."""
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
