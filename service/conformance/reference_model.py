"""Computes the reference output with transformers, on given weights or on a random network that it builds.

It runs as a process of its own, because it imports torch: `python -m service.conformance.reference_model FOLDER...`.

Each folder has a `request.json` with `weights` (a folder, or null), `prompts` (lists of token ids), `new_tokens`,
`pooling` (null, or `CLS`, `MEAN`, `LAST` for an embedding model) and, without weights, `config` (the `config.json` to
build), `bos` and `eos`. Written into the folder: `reference.json` with `tokens` (greedy, per prompt), `vectors` (unit
length, per prompt) or `error`; and before it, for a network that was built, `config.json`, `model.safetensors` in
float32 and a tokenizer.
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
# What the classes of transformers raise for a configuration that they do not support.
CONFIG_ERRORS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def main(folders: list[str]) -> None:
    """Answers the request in each folder; prints the folder's path when done."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in folders:
        folder = Path(name)
        request = json.loads((folder / "request.json").read_text())
        try:
            reference = build(folder, request)
        except CONFIG_ERRORS as error:
            reference = {"error": f"transformers cannot build it: {type(error).__name__}: {error}"}
        (folder / "reference.json").write_text(json.dumps(reference))
        print(name, flush=True)


def build(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The reference output for `request`; a network without weights is built in `folder` first."""
    pooling = request["pooling"]
    if request["weights"]:
        loader = transformers.AutoModel if pooling else transformers.AutoModelForCausalLM
        network = loader.from_pretrained(request["weights"], dtype=torch.float32, local_files_only=True).eval()
    else:
        network = _build_random(folder, request)
    with torch.no_grad():
        if pooling:
            return {"vectors": [_embed(network, prompt, pooling) for prompt in request["prompts"]]}
        return {"tokens": [_generate(network, prompt, request["new_tokens"]) for prompt in request["prompts"]]}


def _build_random(folder: Path, request: dict[str, Any]) -> Any:
    config = AutoConfig.for_model(**request["config"])
    network = getattr(transformers, request["config"]["architectures"][0])(config).float().eval()
    _randomize(network)
    network.save_pretrained(folder)
    # Overwritten with the keys of published models, some of which transformers renames when it saves.
    (folder / "config.json").write_text(json.dumps({**request["config"], "dtype": "float32"}, indent=2))
    tokenizer.write(folder, request["config"]["vocab_size"], request["bos"], request["eos"])
    return network


def _randomize(network: Any) -> None:
    """Sets random weights that preserve the scale of activations, so that every layer and expert affects the output."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.data += NOISE * noise  # norms and biases keep their class's initial value, with some noise
        else:
            parameter.data = noise / min(parameter.shape[-2:]) ** 0.5


def _generate(network: Any, prompt: list[int], count: int) -> list[int]:
    """`count` tokens after `prompt`, decoded greedily and without a KV cache."""
    tokens = list(prompt)
    for _ in range(count):
        logits = network(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def _embed(network: Any, prompt: list[int], pooling: str) -> list[float]:
    hidden = getattr(network, "base_model", network)(torch.tensor([prompt])).last_hidden_state[0]
    vector = {"CLS": hidden[0], "MEAN": hidden.mean(dim=0), "LAST": hidden[-1]}[pooling]
    return [float(component) for component in torch.nn.functional.normalize(vector, dim=0)]


if __name__ == "__main__":
    main(sys.argv[1:])
