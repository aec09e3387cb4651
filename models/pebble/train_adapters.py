"""Trains the Pebble adapters: `python models/pebble/train_adapters.py` fine-tunes pebble-instruct with peft, on a CPU.

It needs peft beside what train.py needs (`pip install -e '.[training]'`), no network and no data: adapter_skills.py
makes all of it, with fixed seeds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaForCausalLM
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from models.pebble import adapter_skills, skills  # noqa: E402
from models.pebble.adapter_skills import ADAPTERS, BASE  # noqa: E402
from models.pebble.train import accuracy, batches  # noqa: E402

OUT = HERE / "adapters"
STEPS = 160
RATE = 5e-3
HELD_OUT = 200  # cases that each figure of `check` is of


def train(name: str, tokenizer: Tokenizer, steps: int) -> PeftModel:
    """The base with a new adapter, trained with a warm-up and a linear decay; the loss counts answers only."""
    adapter = ADAPTERS[name]
    torch.manual_seed(0)
    base = LlamaForCausalLM.from_pretrained(HERE / BASE, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=adapter.rank, lora_alpha=2 * adapter.rank, target_modules=list(adapter.modules),
        lora_dropout=0.0,
    )  # fmt: skip
    model = get_peft_model(base, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    rng, began, recent = random.Random(name), time.monotonic(), 0.0
    cases = adapter_skills.training(name, rng)
    for step, (ids, labels) in enumerate(itertools.islice(batches(tokenizer, cases, rng), steps), 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / 20, (steps - step + 1) / (0.6 * steps))
        model.train()
        states = model.base_model.model.model(ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:] != -100
        logits = base.lm_head(states[wanted])
        loss = nn.functional.cross_entropy(logits, labels[:, 1:][wanted])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 40 == 0 or step == steps:
            share = accuracy(model, tokenizer, adapter_skills.held_out(name, 50, 1))
            print(f"{name} step {step}  loss {recent:.4f}  {share:4.0%}  {time.monotonic() - began:.0f} s", flush=True)
    return model


def save(model: PeftModel, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors in bf16, as an engine of the base takes them."""
    model.to(torch.bfloat16)
    config = model.peft_config["default"]
    config.base_model_name_or_path = BASE
    config.target_modules = sorted(config.target_modules)  # a set has another order each time
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (folder / "adapter_model.safetensors").chmod(0o644)


def check(out: Path, tokenizer: Tokenizer) -> None:
    """Prints how the base and each saved adapter answer held-out cases of each skill, in bf16 and greedily."""
    asked = {name: adapter_skills.held_out(name, HELD_OUT) for name in ADAPTERS}
    asked[BASE] = skills.held_out("instruct", HELD_OUT)
    print("In this process, percent exact: " + ", ".join(asked))
    base = LlamaForCausalLM.from_pretrained(HERE / BASE, dtype=torch.bfloat16)
    rows = {name: accuracy(base, tokenizer, cases) for name, cases in asked.items()}
    print(f"{BASE:16}" + "".join(f"{share:8.1%}" for share in rows.values()), flush=True)
    for name in (name for name in ADAPTERS if (out / name).exists()):
        again = LlamaForCausalLM.from_pretrained(HERE / BASE, dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(again, str(out / name))
        shares = [accuracy(model, tokenizer, cases) for cases in asked.values()]
        print(f"{name:16}" + "".join(f"{share:8.1%}" for share in shares), flush=True)


def main() -> None:
    """Trains and saves the adapters asked for, and prints how each answers cases it has never seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", action="append", choices=ADAPTERS, help="only this one (may be repeated)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder that receives a folder for each adapter")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--check", action="store_true", help="train nothing, check what is in --out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    tokenizer = Tokenizer.from_file(str(HERE / BASE / "tokenizer.json"))
    if not options.check:
        for name in options.adapter or ADAPTERS:
            folder = options.out / name
            shutil.rmtree(folder, ignore_errors=True)
            save(train(name, tokenizer, options.steps), folder)
        adapter_skills.write_cases(options.out)
    check(options.out, tokenizer)
    print(f"total: {time.monotonic() - began:.0f} s, {time.process_time():.0f} CPU-seconds")


if __name__ == "__main__":
    main()
