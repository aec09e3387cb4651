"""Which files of a repository are pulled."""

import pytest

from service.weights import selection
from service.weights.selection import CODE, COPY, FORMAT, PICKLE, STRAY, UNNEEDED, auto_map, wanted, without_auto_map

# Repositories as they lie on the hub: what is taken, and what is left for which reason.
LLAMA = {
    "LICENSE.txt": None, "README.md": UNNEEDED, "USE_POLICY.md": None, ".gitattributes": UNNEEDED,
    "config.json": None, "generation_config.json": None, "model-00001-of-00002.safetensors": None,
    "model-00002-of-00002.safetensors": None, "model.safetensors.index.json": None,
    "pytorch_model-00001-of-00002.bin": PICKLE, "pytorch_model.bin.index.json": None,
    "special_tokens_map.json": None, "tokenizer.json": None, "tokenizer.model": None, "tokenizer_config.json": None,
    "original/consolidated.00.pth": PICKLE, "original/params.json": UNNEEDED, "original/tokenizer.model": UNNEEDED,
}  # fmt: skip
MISTRAL = {
    "consolidated.safetensors": COPY, "params.json": COPY, "model.safetensors": None, "config.json": None,
    "tekken.json": None, "tokenizer.model.v3": None, "SYSTEM_PROMPT.txt": UNNEEDED, "chat_template.jinja": None,
}  # fmt: skip
MISTRAL_ALONE = {"consolidated.safetensors": None, "params.json": None, "tekken.json": None}
GPT_OSS = {
    "model-00000-of-00002.safetensors": None, "original/model.safetensors": COPY, "original/config.json": UNNEEDED,
    "metal/model.bin": PICKLE, "config.json": None, "LICENSE": None, "chat_template.jinja": None,
}  # fmt: skip
GPT_2 = {
    "64.tflite": FORMAT, "flax_model.msgpack": FORMAT, "rust_model.ot": FORMAT, "tf_model.h5": FORMAT,
    "onnx/decoder_model.onnx": FORMAT, "onnx/config.json": UNNEEDED, "model.safetensors": None, "config.json": None,
    "merges.txt": None, "vocab.json": None, "pytorch_model.bin": PICKLE,
}  # fmt: skip
SENTENCES = {
    "1_Pooling/config.json": None, "2_Dense/model.safetensors": None, "2_Dense/pytorch_model.bin": PICKLE,
    "modules.json": None, "sentence_bert_config.json": None, "vocab.txt": None, "model.safetensors": None,
    "openvino/openvino_model.bin": PICKLE, "openvino/openvino_model.xml": UNNEEDED, "config.json": None,
}  # fmt: skip
CODED = {
    "config.json": None, "modeling_x.py": CODE, "lib/kernel.py": CODE, "run.sh": CODE, "kernel.so": CODE,
    "qwen.tiktoken": None, "model.safetensors": None, "model-q4.gguf": FORMAT, "image.png": UNNEEDED,
    "additional_chat_templates/tool.jinja": None, "../up.json": STRAY, "/root.json": STRAY, "a\\b.json": STRAY,
}  # fmt: skip
CASES = [LLAMA, MISTRAL, MISTRAL_ALONE, GPT_OSS, GPT_2, SENTENCES, CODED]


@pytest.mark.parametrize(
    "names", CASES, ids=["llama", "mistral", "mistral-alone", "gpt-oss", "gpt-2", "sentences", "coded"]
)
def test_what_is_taken_and_why_not(names: dict[str, str | None]) -> None:
    found = wanted(names)
    assert {**dict.fromkeys(found.taken), **found.left} == names
    assert found.objection() is None


def test_trust_takes_python_and_nothing_else() -> None:
    trusting, careful = wanted(CODED, trust_remote_code=True), wanted(CODED)
    assert set(trusting.taken) - set(careful.taken) == {"modeling_x.py", "lib/kernel.py"}
    assert trusting.because(CODE) == ["kernel.so", "run.sh"]


@pytest.mark.parametrize("suffix", sorted(selection.PICKLES))
def test_pickles_alone_are_nothing_to_serve(suffix: str) -> None:
    names = [f"model{number}{suffix}" for number in range(5)]
    objection = wanted([*names, "config.json"]).objection()
    assert objection
    assert objection.startswith(f"it has its weights only as pickles ({names[0]}, {names[1]}, {names[2]} and 2 more)")


def test_no_weights_at_all() -> None:
    assert wanted(["config.json", "sub/model.safetensors"]).objection() == "it has no *.safetensors at its top level"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"auto_map": {"AutoModel": "a.B", "AutoConfig": "a.C"}}, ["a.B", "a.C"]),
        ({"auto_map": {"AutoTokenizer": ["t.Slow", None]}}, ["['t.Slow', None]"]),
        ({"auto_map": "other/repo--a.B"}, ["other/repo--a.B"]),
        ({"text_config": {"auto_map": {"AutoModel": "a.B"}}}, ["a.B"]),
        ({"layers": [{"auto_map": {"AutoModel": "a.B"}}]}, ["a.B"]),
        ({"note": "auto_map"}, []),
        ({}, []),
        ([], []),
    ],
)
def test_the_code_that_a_configuration_names(config: object, code: list[str]) -> None:
    assert list(auto_map(config)) == code
    assert list(auto_map(without_auto_map(config))) == []


def test_the_rest_of_a_configuration_stays() -> None:
    config = {"a": 1, "auto_map": {}, "b": [{"auto_map": {}, "c": None}]}
    assert without_auto_map(config) == {"a": 1, "b": [{"c": None}]}
