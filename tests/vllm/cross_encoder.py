"""A tiny cross-encoder with random weights, and what transformers makes of pairs of texts.

It imports torch, so it runs as a process of its own: `python -m tests.vllm.cross_encoder FOLDER` reads `pairs.json` (a
list of lists of two texts) there, and writes a model that vLLM can load and `scores.json`, a number from 0 to 1 each.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

SEED = 7
SPREAD = 2.0  # standard deviation of the logits, so that no two scores are alike
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POSITIONS = 512


def write_tokenizer(folder: Path) -> int:
    """Writes a tokenizer of bytes that joins two texts as BERT does; returns the size of its vocabulary."""
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": POSITIONS,
        **dict(zip(names, SPECIAL, strict=True)),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)


def build_network(vocabulary: int) -> BertForSequenceClassification:
    """A BERT of two layers with one output, in float32."""
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=POSITIONS, num_labels=1, initializer_range=0.15, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config).float().eval()


def main(folder: Path) -> None:
    """Writes the model and the scores into `folder`."""
    network = build_network(write_tokenizer(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [tokenizer(*pair, return_tensors="pt") for pair in json.loads((folder / "pairs.json").read_text())]
    with torch.no_grad():
        logits = torch.cat([network(**pair).logits[0] for pair in pairs])
        scale = SPREAD / logits.std()
        network.classifier.weight.data *= scale
        network.classifier.bias.data.fill_(-float(logits.mean() * scale))
        scores = [float(torch.sigmoid(network(**pair).logits[0, 0])) for pair in pairs]
    network.save_pretrained(folder)
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
