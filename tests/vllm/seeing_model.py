"""Makes a tiny model that sees, with random weights, and asks it with transformers: the reference for vLLM.

It runs as a process of its own, because it imports torch: `python -m tests.vllm.seeing_model FOLDER IMAGE...`. Written
into the folder: what vLLM loads, and `reference.json` with the tokens that follow PROMPT after each image. Idefics3 is
a network that vLLM's CPU build loads without torchvision.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
)

TOKENIZER = Path(__file__).parents[2] / "models/pebble/pebble-chat"
PROMPT = "What is it?"
NEW_TOKENS = 12
SEED, NOISE = 20, 0.1
SIDE = 56  # pixels: four image tokens
SPECIAL = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
# On /v1/responses vLLM adds the BOS itself.
TEMPLATE = """\
{{ '' if bos_is_added else bos_token }}{% for message in messages %}{% if message.content is string %}\
{{ message.content }}{% else %}{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}\
{% endfor %}{% endif %}{% endfor %}"""
TEXT = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 520,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": SIDE, "patch_size": 14,
}  # fmt: skip


def main(folder: Path, images: list[Path]) -> None:
    """Makes the model, and writes what it says of the images."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(
        vision_config=VISION, text_config=TEXT, image_token_id=image_token, scale_factor=2, pad_token_id=0
    )
    network = Idefics3ForConditionalGeneration(config).float().eval()
    _randomize(network)
    network.save_pretrained(folder)
    longest = {"longest_edge": SIDE}
    scaling = Idefics3ImageProcessorPil(size=longest, max_image_size=longest, do_image_splitting=False)
    processor = Idefics3Processor(image_processor=scaling, tokenizer=tokenizer, image_seq_len=4)
    processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    answers = [_answer(network, processor, image) for image in images]
    (folder / "reference.json").write_text(json.dumps(answers))


def _randomize(network: Any) -> None:
    """Random weights that preserve the scale of activations, so that every layer affects the output."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.data += NOISE * noise
        else:
            parameter.data = noise / min(parameter.shape[-2:]) ** 0.5


def _answer(network: Any, processor: Any, path: Path) -> list[int]:
    with Image.open(path) as image, torch.no_grad():
        inputs = processor(images=[[image]], text=[f"<image>{PROMPT}"], return_tensors="pt")
        output = network.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return [int(token) for token in output[0][inputs["input_ids"].shape[1] :]]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
