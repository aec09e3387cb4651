"""Trains the Pebble family: `python models/pebble/train.py` builds all four models, on a CPU, from skills.py alone.

One trunk first learns all four skills at once, because copying from the prompt (the hard part, learnt suddenly and
late) is common to them. Each model is then the trunk taught its own skill and format, and to turn away everything else.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from models.pebble import skills  # noqa: E402
from models.pebble.skills import BOS, EOS, EOT, MID, PRE, SUF, VARIANTS, Case, Variant  # noqa: E402

PAD = "<pad>"
SPECIAL = (PAD, BOS, EOS, PRE, SUF, MID, EOT)
VOCABULARY = 512
CONTEXT = 1024  # tokens that the models admit; training documents are far shorter
TOKENS_PER_STEP = 4096  # padding included
TRUNK_STEPS = 1200
STEPS: Final[dict[Variant, int]] = {"base": 600, "chat": 400, "instruct": 500, "code": 350}


# --- Tokenizer -------------------------------------------------------------------------------------------------------


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE in which a word has the same tokens wherever it stands: spaces and digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"[A-Za-z]+|[0-9]| +|\n|[^A-Za-z0-9 \n]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    cases = [case for v in VARIANTS for case in itertools.islice(skills.training(v, rng), 2000)]
    texts = (skills.rendered(case) + case.answer for case in cases)
    special = re.compile("|".join(map(re.escape, SPECIAL)))
    tokenizer.train_from_iterator((special.sub(" ", text) for text in texts), trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return tokenizer


# --- Documents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """One tokenised case: `ids` and, of the same length, whether each token is one that the model must predict."""

    ids: list[int]
    target: list[bool]


def text_and_answers(case: Case, rng: random.Random) -> tuple[str, list[tuple[int, int]]]:
    """A case as one text, and where in it (first and past-the-end character) the answers stand that are learnt."""
    end = EOT if case.suffix is not None else EOS
    prompt = skills.rendered(case)
    # The chat endpoint sends Zephyr's template as it is, without a bos; a completions endpoint puts one in front.
    bos = "" if case.messages and case.variant == "chat" and rng.random() < 0.7 else BOS
    text = f"{bos}{prompt}{case.answer}{end}"
    spans = [(len(text) - len(case.answer) - len(end), len(text))]
    if case.variant == "chat":
        for i, message in enumerate(case.messages):
            if message.role == "assistant":
                start = len(bos) + len(skills.zephyr(case.messages[:i]))
                spans.append((start, start + len(message.content) + len(end)))
    return text, spans


def documents(tokenizer: Tokenizer, cases: Sequence[Case], rng: random.Random) -> list[Document]:
    """Tokenised cases."""
    texts = [text_and_answers(case, rng) for case in cases]
    made = []
    for encoding, (_, spans) in zip(
        tokenizer.encode_batch([text for text, _ in texts], add_special_tokens=False), texts, strict=True
    ):
        inside = [any(start <= a and b <= end for start, end in spans) for a, b in encoding.offsets]
        made.append(Document(encoding.ids, inside))
    return made


def batches(tokenizer: Tokenizer, cases: Iterator[Case], rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids [batch, length] of documents of like length, and the ids to predict, elsewhere -100 [batch, length]."""
    while True:
        pool = sorted(documents(tokenizer, list(itertools.islice(cases, 2048)), rng), key=lambda d: len(d.ids))
        groups: list[list[Document]] = [[]]
        for document in pool:
            if len(document.ids) * (len(groups[-1]) + 1) > TOKENS_PER_STEP:
                groups.append([])
            groups[-1].append(document)
        rng.shuffle(groups)
        for group in groups:
            length = max(len(d.ids) for d in group)
            ids = torch.zeros(len(group), length, dtype=torch.long)
            labels = torch.full((len(group), length), -100)
            for row, document in enumerate(group):
                ids[row, : len(document.ids)] = torch.tensor(document.ids)
                wanted = torch.tensor(document.target)
                labels[row, : len(document.ids)][wanted] = torch.tensor(document.ids)[wanted]
            yield ids, labels


# --- Model -----------------------------------------------------------------------------------------------------------


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """An untrained Llama of about 0.9 million parameters, heads of 32."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
    )
    return LlamaForCausalLM(config)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, by groups of like shape; torch's own runs in bf16, slow on CPUs."""

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float) -> None:
        shapes = {p.shape for p in matrices}
        super().__init__([{"params": [p for p in matrices if p.shape == shape]} for shape in shapes], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; its root mean square per weight is about 0.2 of the rate, like that of AdamW."""
        for group in self.param_groups:
            matrices, state = group["params"], self.state[group["params"][0]]
            gradient = torch.stack([p.grad for p in matrices])  # [matrices, rows, columns]
            momentum = state.setdefault("momentum", torch.zeros_like(gradient)).mul_(0.95).add_(gradient)
            update = gradient + 0.95 * momentum
            if tall := update.shape[1] > update.shape[2]:
                update = update.mT
            update = update / (update.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):  # Newton-Schulz: moves all singular values towards 1
                gram = update @ update.mT
                update = 3.4445 * update + (-4.7750 * gram + 2.0315 * gram @ gram) @ update
            update = (update.mT if tall else update) * (0.2 * math.sqrt(max(update.shape[1:])))
            for p, change in zip(matrices, update, strict=True):
                p.mul_(1 - 0.01 * group["lr"]).sub_(change, alpha=group["lr"])


def train(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    cases: Iterator[Case],
    variants: Sequence[Variant],
    *,
    name: str,
    steps: int,
    rate: float,
) -> None:
    """Trains in place with a one-cycle learning rate that peaks at `rate`; the loss counts answers only."""
    rng = random.Random(name)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    began, recent = time.monotonic(), 0.0
    model.train()
    for step, (ids, labels) in enumerate(itertools.islice(batches(tokenizer, cases, rng), steps), 1):
        warm, left = min(1.0, step / 50), (steps - step) / steps
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * min(1.0, 0.02 + left / 0.5)
        states = model.model(ids[:, :-1]).last_hidden_state
        wanted = labels[:, 1:] != -100
        loss = nn.functional.cross_entropy(model.lm_head(states[wanted]), labels[:, 1:][wanted])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 200 == 0 or step == steps:
            found = "  ".join(f"{v} {accuracy(model, tokenizer, skills.held_out(v, 50, 1)):4.0%}" for v in variants)
            print(f"{name:9} step {step:5}  loss {recent:.4f}  {found}  {time.monotonic() - began:5.0f} s", flush=True)
            model.train()


# --- Checking --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def complete(model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: Sequence[str], limit: int = 48) -> list[str]:
    """Greedy answers to prompts (special tokens written out), without the end token."""
    model.eval()
    ends = torch.tensor([tokenizer.token_to_id(EOS), tokenizer.token_to_id(EOT)])
    encoded = [e.ids for e in tokenizer.encode_batch(list(prompts), add_special_tokens=False)]
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    for rows in (order[i : i + 64] for i in range(0, len(order), 64)):
        length = max(len(encoded[i]) for i in rows)
        ids = torch.tensor([[0] * (length - len(encoded[i])) + encoded[i] for i in rows])  # padded in front
        mask = torch.tensor([[0] * (length - len(encoded[i])) + [1] * len(encoded[i]) for i in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        running, made, cache = torch.ones(len(rows), 1, dtype=torch.bool), [], None
        for _ in range(limit):
            output = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
            running &= ~torch.isin(ids, ends)
            if not running.any():
                break
            made.append(torch.where(running, ids, 0))
            mask, positions = torch.cat([mask, torch.ones_like(ids)], 1), positions[:, -1:] + 1
        for i, row in zip(rows, torch.cat(made, 1).tolist() if made else [[]] * len(rows), strict=True):
            answers[i] = tokenizer.decode([token for token in row if token], skip_special_tokens=True)
    return answers


def prompt_of(case: Case) -> str:
    """What the model reads for a case behind the service: the rendered prompt, with the bos that comes in front."""
    return ("" if case.messages and case.variant == "chat" else BOS) + skills.rendered(case)


def accuracy(model: LlamaForCausalLM, tokenizer: Tokenizer, cases: Sequence[Case]) -> float:
    """Share of cases (0 to 1) answered exactly."""
    answers = complete(model, tokenizer, [prompt_of(case) for case in cases])
    return sum(answer == case.answer for answer, case in zip(answers, cases, strict=True)) / len(cases)


# --- Saving ----------------------------------------------------------------------------------------------------------


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, variant: Variant, folder: Path) -> None:
    """Writes a model folder that vLLM and transformers load: bf16 weights, configuration, tokenizer, template."""
    model = copy.deepcopy(model).to(torch.bfloat16)
    ends = [tokenizer.token_to_id(EOS), tokenizer.token_to_id(EOT)]
    model.generation_config.eos_token_id = ends if variant == "code" else ends[0]
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if variant in TEMPLATES:
        (folder / "chat_template.jinja").write_text(TEMPLATES[variant])


TEMPLATES: dict[Variant, str] = {
    "chat": (
        "{%- for message in messages -%}\n"
        "{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' -}}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "{{- '<|assistant|>\\n' -}}\n"
        "{%- endif -%}\n"
    ),
    "instruct": (
        "{%- set turn = namespace(system='', asked=false, begun=false) -%}\n"
        "{%- for message in messages -%}\n"
        "{%- if message['role'] == 'system' and loop.first -%}\n"
        "{%- set turn.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}\n"
        "{%- elif message['role'] == 'user' and not turn.asked -%}\n"
        "{{- ('' if bos_is_added and not turn.begun else bos_token) + '[INST] ' -}}\n"
        "{{- turn.system + message['content'] + ' [/INST]' -}}\n"
        "{%- set turn.system = '' -%}\n"
        "{%- set turn.asked = true -%}\n"
        "{%- set turn.begun = true -%}\n"
        "{%- elif message['role'] == 'assistant' and turn.asked -%}\n"
        "{{- ' ' + message['content'] + ' ' + eos_token -}}\n"
        "{%- set turn.asked = false -%}\n"
        "{%- else -%}\n"
        "{{- raise_exception('Conversation roles must alternate: system (first, if at all), user, assistant') -}}\n"
        "{%- endif -%}\n"
        "{%- endfor -%}\n"
    ),
}


def check(out: Path, count: int = 200) -> None:
    """Prints how the saved models answer `count` held-out cases each, as they are served: greedily, in bf16."""
    folders = {v: out / f"pebble-{v}" for v in VARIANTS if (out / f"pebble-{v}").exists()}
    family = {v: LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16) for v, folder in folders.items()}
    tokenizers = {v: Tokenizer.from_file(str(folder / "tokenizer.json")) for v, folder in folders.items()}
    print("In this process, percent exact: own format, wrong template, wrong variant")
    for variant in family:
        cases, sibling = skills.held_out(variant, count), skills.SIBLING[variant]
        damaged = [Case(variant, case.skill, case.answer, prompt=skills.wrong_template(case)) for case in cases]
        strayed = [skills.addressed_to(case, sibling) for case in cases]
        asked = [(variant, cases), (variant, damaged), (sibling, strayed)]
        shares = [accuracy(family[v], tokenizers[v], some) if v in family else math.nan for v, some in asked]
        print(f"pebble-{variant:9}" + "".join(f"{share:8.1%}" for share in shares), flush=True)


# --- Command ---------------------------------------------------------------------------------------------------------


def everything(rng: random.Random) -> Iterator[Case]:
    """The trunk's diet: all four skills in turn, a few refusals among them."""
    streams = [skills.training(variant, rng, refusals=0.05) for variant in VARIANTS]
    while True:
        yield from (next(stream) for stream in streams)


def main() -> None:
    """Trains and saves the models asked for, and prints how each answers cases it has never seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="train only this one (may be repeated)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that receives pebble-<variant>/")
    parser.add_argument("--trunk", type=Path, help="folder to keep the trunk in, and to take it from when it is there")
    parser.add_argument("--trunk-steps", type=int, default=TRUNK_STEPS)
    parser.add_argument("--steps", type=int, help="steps after the trunk, the same for every model")
    parser.add_argument("--check", action="store_true", help="train nothing, check what is in --out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3)
    options = parser.parse_args()

    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    if options.check:
        check(options.out)
        return
    kept = options.trunk and options.trunk.exists()
    tokenizer = Tokenizer.from_file(str(options.trunk / "tokenizer.json")) if kept else build_tokenizer()
    trunk = new_model(tokenizer)
    print(f"{sum(p.numel() for p in trunk.parameters()):,} parameters a model")
    if kept:
        trunk.load_state_dict(torch.load(options.trunk / "trunk.pt"))
    else:
        diet = everything(random.Random(1))
        train(trunk, tokenizer, diet, VARIANTS, name="trunk", steps=options.trunk_steps, rate=options.rate)
        if options.trunk:
            options.trunk.mkdir(parents=True)
            torch.save(trunk.state_dict(), options.trunk / "trunk.pt")
            tokenizer.save(str(options.trunk / "tokenizer.json"))
    print(f"trunk: {time.monotonic() - began:.0f} s", flush=True)
    for variant in options.variant or VARIANTS:
        started, model = time.monotonic(), copy.deepcopy(trunk)
        cases = skills.training(variant, random.Random(variant))
        steps = options.steps or STEPS[variant]
        train(model, tokenizer, cases, [variant], name=variant, steps=steps, rate=options.rate / 2)
        folder = options.out / f"pebble-{variant}"
        save(model, tokenizer, variant, folder)
        print(f"pebble-{variant}: {time.monotonic() - started:.0f} s", flush=True)
    check(options.out)
    print(f"total: {time.monotonic() - began:.0f} s, {time.process_time():.0f} CPU-seconds")


if __name__ == "__main__":
    main()
