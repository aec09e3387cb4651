"""Builds small networks with random weights and says what transformers makes of them.

A program of its own, since nothing else here imports torch: `python -m service.conformance.reference_model FOLDER...`.
Each folder
holds `request.json`, an object of `config` (its `config.json`), `prompts` (lists of token ids), `new_tokens`, `pooling`
(null, or `CLS`, `MEAN`, `LAST` for an embedding model), `bos` and `eos`. Written beside it: `config.json`,
`model.safetensors` in float32, a tokenizer, and last `reference.json` with `tokens` (greedy ones per prompt),
`vectors` (unit length, per prompt), or `error`.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from service.conformance import tokenizer

SEED = 20
NOISE = 0.1
# What a class of transformers raises when a configuration does not suit it.
EXPECTED = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def main(folders: list[str]) -> None:
    """Builds each folder's network; prints its name when done."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in folders:
        folder = Path(name)
        request = json.loads((folder / "request.json").read_text())
        try:
            reference = build(folder, request)
        except EXPECTED as error:
            reference = {"error": f"transformers cannot build it: {type(error).__name__}: {error}"}
        (folder / "reference.json").write_text(json.dumps(reference))
        print(name, flush=True)


def build(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What the network of `request` answers to its prompts; one that has no weights yet gets them, in `folder`."""
    pooling = request["pooling"]
    if request["weights"]:
        loader = transformers.AutoModel if pooling else transformers.AutoModelForCausalLM
        network = loader.from_pretrained(request["weights"], dtype=torch.float32, local_files_only=True).eval()
    else:
        network = _invent(folder, request)
    with torch.no_grad():
        if pooling:
            return {"vectors": [_embed(network, prompt, pooling) for prompt in request["prompts"]]}
        return {"tokens": [_continue(network, prompt, request["new_tokens"]) for prompt in request["prompts"]]}


def _invent(folder: Path, request: dict[str, Any]) -> Any:
    config = AutoConfig.for_model(**request["config"])
    network = getattr(transformers, request["config"]["architectures"][0])(config).float().eval()
    _randomize(network)
    network.save_pretrained(folder)
    # As its publisher would write it: transformers renames some keys when it saves.
    (folder / "config.json").write_text(json.dumps({**request["config"], "dtype": "float32"}, indent=2))
    tokenizer.write(folder, request["config"]["vocab_size"], request["bos"], request["eos"])
    return network


def _randomize(network: Any) -> None:
    """Weights that keep signals at their size, so that attention and every expert matter to the answer."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.data += NOISE * noise  # what a normalisation or bias starts from depends on its class
        else:
            parameter.data = noise / min(parameter.shape[-2:]) ** 0.5


def _continue(network: Any, prompt: list[int], count: int) -> list[int]:
    """The `count` most likely tokens after `prompt`, each chosen after reading the whole text anew."""
    text = list(prompt)
    for _ in range(count):
        logits = network(torch.tensor([text]), use_cache=False).logits
        text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :]


def _embed(network: Any, prompt: list[int], pooling: str) -> list[float]:
    hidden = getattr(network, "base_model", network)(torch.tensor([prompt])).last_hidden_state[0]
    vector = {"CLS": hidden[0], "MEAN": hidden.mean(dim=0), "LAST": hidden[-1]}[pooling]
    return [float(one) for one in torch.nn.functional.normalize(vector, dim=0)]


if __name__ == "__main__":
    main(sys.argv[1:])
