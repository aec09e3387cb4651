"""Which files of a repository are pulled."""

import pytest

from service.weights import selection
from service.weights.selection import (
    CODE,
    DUPLICATE,
    PICKLE,
    UNNEEDED,
    UNSAFE,
    UNSUPPORTED,
    auto_map,
    select,
    without_auto_map,
)

# Repositories as they are on the hub: None for each selected file, else the reason to skip it.
LLAMA = {
    "LICENSE.txt": None, "README.md": UNNEEDED, "USE_POLICY.md": None, ".gitattributes": UNNEEDED,
    "config.json": None, "generation_config.json": None, "model-00001-of-00002.safetensors": None,
    "model-00002-of-00002.safetensors": None, "model.safetensors.index.json": None,
    "pytorch_model-00001-of-00002.bin": PICKLE, "pytorch_model.bin.index.json": None,
    "special_tokens_map.json": None, "tokenizer.json": None, "tokenizer.model": None, "tokenizer_config.json": None,
    "original/consolidated.00.pth": PICKLE, "original/params.json": UNNEEDED, "original/tokenizer.model": UNNEEDED,
}  # fmt: skip
MISTRAL = {
    "consolidated.safetensors": DUPLICATE, "params.json": DUPLICATE, "model.safetensors": None, "config.json": None,
    "tekken.json": None, "tokenizer.model.v3": None, "SYSTEM_PROMPT.txt": UNNEEDED, "chat_template.jinja": None,
}  # fmt: skip
MISTRAL_ALONE = {"consolidated.safetensors": None, "params.json": None, "tekken.json": None}
GPT_OSS = {
    "model-00000-of-00002.safetensors": None, "original/model.safetensors": DUPLICATE, "original/config.json": UNNEEDED,
    "metal/model.bin": PICKLE, "config.json": None, "LICENSE": None, "chat_template.jinja": None,
}  # fmt: skip
GPT_2 = {
    "64.tflite": UNSUPPORTED, "flax_model.msgpack": UNSUPPORTED, "rust_model.ot": UNSUPPORTED,
    "tf_model.h5": UNSUPPORTED, "onnx/decoder_model.onnx": UNSUPPORTED, "onnx/config.json": UNNEEDED,
    "model.safetensors": None, "config.json": None, "merges.txt": None, "vocab.json": None, "pytorch_model.bin": PICKLE,
}  # fmt: skip
SENTENCES = {
    "1_Pooling/config.json": None, "2_Dense/model.safetensors": None, "2_Dense/pytorch_model.bin": PICKLE,
    "modules.json": None, "sentence_bert_config.json": None, "vocab.txt": None, "model.safetensors": None,
    "openvino/openvino_model.bin": PICKLE, "openvino/openvino_model.xml": UNNEEDED, "config.json": None,
}  # fmt: skip
CODED = {
    "config.json": None, "modeling_x.py": CODE, "lib/kernel.py": CODE, "run.sh": CODE, "kernel.so": CODE,
    "qwen.tiktoken": None, "model.safetensors": None, "model-q4.gguf": UNSUPPORTED, "image.png": UNNEEDED,
    "additional_chat_templates/tool.jinja": None, "../up.json": UNSAFE, "/root.json": UNSAFE, "a\\b.json": UNSAFE,
}  # fmt: skip
CASES = [LLAMA, MISTRAL, MISTRAL_ALONE, GPT_OSS, GPT_2, SENTENCES, CODED]


@pytest.mark.parametrize(
    "names", CASES, ids=["llama", "mistral", "mistral-alone", "gpt-oss", "gpt-2", "sentences", "coded"]
)
def test_which_files_are_selected_and_why_others_are_not(names: dict[str, str | None]) -> None:
    found = select(names)
    assert {**dict.fromkeys(found.selected), **found.skipped} == names
    assert found.why_unservable() is None


def test_trust_selects_python_files_and_no_other_code() -> None:
    trusted, default = select(CODED, trust_remote_code=True), select(CODED)
    assert set(trusted.selected) - set(default.selected) == {"modeling_x.py", "lib/kernel.py"}
    assert trusted.skipped_for(CODE) == ["kernel.so", "run.sh"]


@pytest.mark.parametrize("suffix", sorted(selection.PICKLE_SUFFIXES))
def test_pickles_alone_are_nothing_to_serve(suffix: str) -> None:
    names = [f"model{number}{suffix}" for number in range(5)]
    reason = select([*names, "config.json"]).why_unservable()
    assert reason
    assert reason.startswith(f"its weights are pickle files only ({names[0]}, {names[1]}, {names[2]} and 2 more)")


def test_no_weights_at_all() -> None:
    reason = select(["config.json", "sub/model.safetensors"]).why_unservable()
    assert reason == "it has no *.safetensors file in its top-level directory"


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
