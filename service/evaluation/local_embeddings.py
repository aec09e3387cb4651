"""Computes embeddings of texts with transformers, from a model in a folder.

It runs as a process of its own, because it imports torch: `python -m service.evaluation.local_embeddings FOLDER`.

On standard input is a JSON list of texts. For each, in their order, a line with a JSON list of numbers is printed: its
vector. How a model's tokens become one vector is what `1_Pooling/config.json` in its folder says, as
sentence-transformers writes it, and otherwise their mean.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

AT_ONCE = 16  # texts
LONGEST = 8192  # tokens, where the tokenizer does not say


def main(folder: str) -> None:
    """Answers what standard input asks."""
    logging.disable(logging.WARNING)
    for vector in embed(Path(folder), json.load(sys.stdin)):
        print(json.dumps(vector), flush=True)


def embed(folder: Path, texts: list[str]) -> Iterator[list[float]]:
    """The vectors of texts, in their order, by the model in the folder."""
    pooling = pooling_of(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
    network = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    longest = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", LONGEST))
    for start in range(0, len(texts), AT_ONCE):
        batch = tokenizer(
            texts[start : start + AT_ONCE], padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        with torch.no_grad():
            states = network(**batch).last_hidden_state
        yield from pooled(states, batch["attention_mask"], pooling).tolist()


def pooling_of(folder: Path) -> str:
    """`cls`, `last` or `mean`."""
    file = folder / "1_Pooling/config.json"
    said: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if said.get("pooling_mode_cls_token"):
        return "cls"
    return "last" if said.get("pooling_mode_lasttoken") else "mean"


def pooled(states: Any, mask: Any, pooling: str) -> Any:
    """Vectors (texts × width) of states (texts × tokens × width); the mask (texts × tokens) is 0 at padding, behind."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


if __name__ == "__main__":
    main(sys.argv[1])
