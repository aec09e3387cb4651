"""Parsing names: the 72 hub ids of the catalogue, other spellings seen in the wild, and properties of any text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.names import Specialty, Variant, parse
from tests.support.each import each

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")

Row = tuple[str, str, str | None, str | None, Variant | None, Specialty | None]

# hub id, family, version, size, variant, specialty
HUB: list[Row] = [
    ("meta-llama/Llama-2-7b-hf", "llama-2", "2", "7b", "base", None),
    ("meta-llama/Llama-2-7b-chat-hf", "llama-2", "2", "7b", "chat", None),
    ("meta-llama/Llama-2-13b-hf", "llama-2", "2", "13b", "base", None),
    ("meta-llama/Llama-2-13b-chat-hf", "llama-2", "2", "13b", "chat", None),
    ("meta-llama/Llama-2-70b-hf", "llama-2", "2", "70b", "base", None),
    ("meta-llama/Llama-2-70b-chat-hf", "llama-2", "2", "70b", "chat", None),
    ("mistralai/Mistral-7B-v0.1", "mistral", "0.1", "7b", "base", None),
    ("mistralai/Mistral-7B-Instruct-v0.1", "mistral", "0.1", "7b", "instruct", None),
    ("mistralai/Mistral-7B-Instruct-v0.2", "mistral", "0.2", "7b", "instruct", None),
    ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", "0.3", "7b", "instruct", None),
    ("mistralai/Mixtral-8x7B-v0.1", "mixtral", "0.1", "8x7b", "base", None),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral", "0.1", "8x7b", "instruct", None),
    ("HuggingFaceH4/zephyr-7b-beta", "zephyr", "beta", "7b", "chat", None),
    ("HuggingFaceH4/zephyr-7b-alpha", "zephyr", "alpha", "7b", "chat", None),
    ("upstage/SOLAR-10.7B-v1.0", "solar", "1.0", "10.7b", "base", None),
    ("upstage/SOLAR-10.7B-Instruct-v1.0", "solar", "1.0", "10.7b", "instruct", None),
    ("codellama/CodeLlama-7b-hf", "code-llama", None, "7b", "code", None),
    ("codellama/CodeLlama-7b-Python-hf", "code-llama", None, "7b", "code", "python"),
    ("codellama/CodeLlama-7b-Instruct-hf", "code-llama", None, "7b", "code", "instruct"),
    ("codellama/CodeLlama-13b-hf", "code-llama", None, "13b", "code", None),
    ("codellama/CodeLlama-13b-Python-hf", "code-llama", None, "13b", "code", "python"),
    ("codellama/CodeLlama-13b-Instruct-hf", "code-llama", None, "13b", "code", "instruct"),
    ("codellama/CodeLlama-34b-hf", "code-llama", None, "34b", "code", None),
    ("codellama/CodeLlama-34b-Python-hf", "code-llama", None, "34b", "code", "python"),
    ("codellama/CodeLlama-34b-Instruct-hf", "code-llama", None, "34b", "code", "instruct"),
    ("codellama/CodeLlama-70b-hf", "code-llama", None, "70b", "code", None),
    ("codellama/CodeLlama-70b-Python-hf", "code-llama", None, "70b", "code", "python"),
    ("codellama/CodeLlama-70b-Instruct-hf", "code-llama", None, "70b", "code", "instruct"),
    ("microsoft/Phi-3-mini-4k-instruct", "phi-3", "3", "mini", "instruct", None),
    ("microsoft/Phi-3-mini-128k-instruct", "phi-3", "3", "mini", "instruct", None),
    ("microsoft/Phi-3-small-8k-instruct", "phi-3", "3", "small", "instruct", None),
    ("microsoft/Phi-3-medium-4k-instruct", "phi-3", "3", "medium", "instruct", None),
    ("microsoft/Phi-3-medium-128k-instruct", "phi-3", "3", "medium", "instruct", None),
    ("microsoft/Orca-2-7b", "orca-2", "2", "7b", "chat", None),
    ("microsoft/Orca-2-13b", "orca-2", "2", "13b", "chat", None),
    ("tiiuae/falcon-7b", "falcon", None, "7b", "base", None),
    ("tiiuae/falcon-7b-instruct", "falcon", None, "7b", "instruct", None),
    ("tiiuae/falcon-40b", "falcon", None, "40b", "base", None),
    ("tiiuae/falcon-40b-instruct", "falcon", None, "40b", "instruct", None),
    ("xai-org/grok-1", "grok-1", "1", None, "base", None),
    ("openai-community/gpt2", "gpt-2", "2", None, "base", None),
    ("google-bert/bert-base-uncased", "bert", None, "base", "embedding", None),
    ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1", "3.1", "8b", "instruct", None),
    ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1", "3.1", "70b", "instruct", None),
    ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2", "3.2", "1b", "instruct", None),
    ("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2", "3.2", "3b", "instruct", None),
    ("Qwen/Qwen2.5-Coder-7B", "qwen2.5-coder", "2.5", "7b", "code", None),
    ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder", "2.5", "7b", "code", "instruct"),
    ("Qwen/Qwen2.5-Coder-32B", "qwen2.5-coder", "2.5", "32b", "code", None),
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5-coder", "2.5", "32b", "code", "instruct"),
    ("Qwen/Qwen3-8B", "qwen3", "3", "8b", "instruct", None),
    ("Qwen/Qwen3-32B", "qwen3", "3", "32b", "instruct", None),
    ("Qwen/Qwen3-30B-A3B", "qwen3", "3", "30b", "instruct", None),
    ("google/gemma-3-4b-it", "gemma-3", "3", "4b", "instruct", None),
    ("google/gemma-3-12b-it", "gemma-3", "3", "12b", "instruct", None),
    ("google/gemma-3-27b-it", "gemma-3", "3", "27b", "instruct", None),
    ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small", "2501", "24b", "instruct", None),
    ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral-small", "3.1", "24b", "instruct", None),
    ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small", "3.2", "24b", "instruct", None),
    ("microsoft/phi-4", "phi-4", "4", None, "instruct", None),
    ("microsoft/Phi-4-mini-instruct", "phi-4", "4", "mini", "instruct", None),
    ("openai/gpt-oss-20b", "gpt-oss", None, "20b", "instruct", None),
    ("openai/gpt-oss-120b", "gpt-oss", None, "120b", "instruct", None),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek-r1-distill", None, "8b", "instruct", None),
    ("deepseek-ai/DeepSeek-Coder-V2-Lite-Base", "deepseek-coder", "2", "lite", "code", None),
    ("deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "deepseek-coder", "2", "lite", "code", "instruct"),
    ("bigcode/starcoder2-7b", "starcoder2", "2", "7b", "code", None),
    ("bigcode/starcoder2-15b", "starcoder2", "2", "15b", "code", None),
    ("BAAI/bge-small-en-v1.5", "bge", "1.5", "small", "embedding", None),
    ("intfloat/e5-small", "e5", None, "small", "embedding", None),
    ("intfloat/e5-small-v2", "e5", "2", "small", "embedding", None),
    ("Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding", "3", "0.6b", "embedding", None),
    ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3", "3", "30b", "instruct", None),
    ("Qwen/Qwen3-Coder-Next", "qwen3-coder", "3", None, "code", "instruct"),
    ("Qwen/Qwen3.5-35B-A3B", "qwen3.5", "3.5", "35b", "instruct", None),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3-next", "3", "80b", "instruct", None),
    ("Qwen/Qwen3Guard-Gen-4B", "qwen3guard", "3", "4b", "guard", None),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4", "4", "scout", "instruct", None),
    ("google/gemma-3n-E2B-it", "gemma-3n", "3n", "e2b", "instruct", None),
    ("google/gemma-4-26B-A4B-it", "gemma-4", "4", "26b", "instruct", None),
    ("mistralai/Devstral-Small-2507", "devstral", "2507", None, "code", "instruct"),
    ("mistralai/Devstral-2-123B-Instruct-2512", "devstral", "2", "123b", "code", "instruct"),
    ("mistralai/Ministral-3-8B-Instruct-2512", "ministral-3", "3", "8b", "instruct", None),
    ("mistralai/Mistral-Small-4-119B-2603", "mistral-small", "4", "119b", "instruct", None),
    ("zai-org/GLM-4.5-Air", "glm-4.5", "4.5", "air", "instruct", None),
    ("zai-org/GLM-5.2", "glm-5", "5.2", None, "instruct", None),
    ("moonshotai/Kimi-K2.5", "kimi-k2", "2.5", None, "instruct", None),
    ("moonshotai/Kimi-K2-Thinking", "kimi-k2", "2", None, "instruct", None),
    ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3", "3", None, "instruct", None),
    ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", "1", None, "instruct", None),
    ("deepseek-ai/DeepSeek-V4-Flash", "deepseek-v4", "4", "flash", "instruct", None),
    ("MiniMaxAI/MiniMax-M2.5", "minimax-m2", "2.5", None, "instruct", None),
    ("openai/gpt-oss-safeguard-20b", "gpt-oss-safeguard", None, "20b", "guard", None),
    ("microsoft/Phi-4-reasoning-plus", "phi-4", "4", None, "instruct", None),
    ("HuggingFaceTB/SmolLM3-3B", "smollm3", "3", "3b", "instruct", None),
    ("ibm-granite/granite-4.0-h-tiny", "granite-4", "4.0", "tiny", "instruct", None),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron-3", "3", "30b", "instruct", None),
    ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron-nano", "2", "9b", "instruct", None),
    ("allenai/Olmo-3-7B-Think", "olmo-3", "3", "7b", "instruct", None),
    ("BAAI/bge-m3", "bge", None, None, "embedding", None),
    ("BAAI/bge-reranker-v2-m3", "bge", "2", None, "reranker", None),
    ("google/embeddinggemma-300m", "embeddinggemma", None, "300m", "embedding", None),
]

OTHERS: list[Row] = [
    ("SorskootLLM-v2-13b-instruct", "sorskootllm", "2", "13b", "instruct", None),
    ("SorskootLLM-13b", "sorskootllm", None, "13b", None, None),
    ("/weights/SorskootLLM-v2-13b-instruct/", "sorskootllm", "2", "13b", "instruct", None),
    (r"C:\weights\Llama-2-7b-hf", "llama-2", "2", "7b", "base", None),
    ("TheBloke/Llama-2-13B-GPTQ", "llama-2", "2", "13b", "base", None),
    ("TheBloke/CodeLlama-34B-Instruct-AWQ", "code-llama", None, "34b", "code", "instruct"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3", "3", "8b", "instruct", None),
    ("meta-llama/Llama-Guard-3-8B", "llama-guard", "3", "8b", "guard", None),
    ("Open-Orca/Mistral-7B-OpenOrca", "mistral", None, "7b", None, None),
    ("NousResearch/Nous-Hermes-Llama2-13b", "nous-hermes-llama2", None, "13b", None, None),
    ("Qwen/Qwen2.5-7B", "qwen2.5", "2.5", "7b", None, None),
    ("Qwen/Qwen3-8B-Base", "qwen3", "3", "8b", "base", None),
    ("Qwen/Qwen3-Reranker-0.6B", "qwen3-reranker", "3", "0.6b", "reranker", None),
    ("Qwen/CodeQwen1.5-7B-Chat", "codeqwen", None, "7b", "code", "instruct"),
    ("WizardLM/WizardCoder-Python-34B-V1.0", "wizardcoder", "1.0", "34b", "code", "python"),
    ("google/codegemma-7b-it", "codegemma", None, "7b", "code", "instruct"),
    ("google/gemma-3-4b-pt", "gemma-3", "3", "4b", "base", None),
    ("swap-uniba/LLaMAntino-7b-it", "llamantino", None, "7b", None, None),
    ("lmsys/vicuna-13b-v1.5-16k", "vicuna", "1.5", "13b", "chat", None),
    ("intfloat/e5-mistral-7b-instruct", "e5", None, "7b", "embedding", None),
    ("nomic-ai/nomic-embed-text-v1.5", "nomic-embed", "1.5", None, "embedding", None),
    ("llama-2-13b.Q4_K_M.gguf", "llama-2", "2", "13b", None, None),
    ("llama-2-13b-chat", "llama-2", "2", "13b", "chat", None),
    ("code-llama-13b", "code-llama", None, "13b", "code", None),
    ("pebble-code", "pebble", None, None, "code", None),
    ("7b", "7b", None, "7b", None, None),
    ("chat", "chat", None, None, "chat", None),
    ("", "", None, None, None, None),
    ("模型/", "", None, None, None, None),
]


@each(("text", "family", "version", "size", "variant", "specialty"), HUB + OTHERS)
def test_parts_of_a_name(
    text: str,
    family: str,
    version: str | None,
    size: str | None,
    variant: Variant | None,
    specialty: Specialty | None,
) -> None:
    name = parse(text)
    assert (name.family, name.version, name.size) == (family, version, size)
    assert (name.variant, name.specialty) == (variant, specialty)
    assert name.text == text


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("meta-llama/Llama-2-13b-chat-hf", "llama-2-13b-chat-hf"),
        ("/weights/SorskootLLM v2 (13b)/", "sorskootllm-v2-13b"),
        ("./my_model.v2", "my_model.v2"),
        ("org/" + "x" * 200, "x" * 96),
        ("///", ""),
    ],
)
def test_slug(text: str, slug: str) -> None:
    assert parse(text).slug == slug


WORDS = [word for row in HUB for word in re.split(r"[-/]", row[0])]
LIKELY = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).flatmap(
    lambda words: st.sampled_from("-_./ ").map(lambda joint: joint.join(words))
)
ANY = st.text() | LIKELY


@given(ANY)
def test_parse_never_raises_and_is_idempotent(text: str) -> None:
    name = parse(text)
    again = parse(name.slug)
    assert again.slug == name.slug
    assert (again.family, again.version, again.size) == (name.family, name.version, name.size)
    assert (again.variant, again.specialty) == (name.variant, name.specialty)
    assert name.specialty is None or name.variant == "code"


@given(
    st.text(), st.from_regex(r"[A-Za-z0-9]", fullmatch=True), st.text(alphabet=st.characters(exclude_characters="/\\"))
)
def test_slug_and_family_are_valid_ids(before: str, letter: str, after: str) -> None:
    name = parse(before + letter + after)
    assert IDENTIFIER.fullmatch(name.slug)
    assert IDENTIFIER.fullmatch(name.family)
