"""LiteLLM: documents ranked by three of its providers' APIs. Usage: litellm_rerank.py URL MODEL."""

import sys

import litellm

URL, MODEL = sys.argv[1:]
DOCUMENTS = ["green pears", "red apples", "an apple is red"]
BASES = {"hosted_vllm": URL, "cohere": f"{URL}/v2/rerank", "jina_ai": f"{URL}/v1/rerank"}

for provider, base in BASES.items():
    model = f"{provider}/{MODEL}"
    answer = litellm.rerank(
        model=model, query="red apples", documents=DOCUMENTS, top_n=2, api_base=base, api_key="none"
    )
    print(provider, "ranked:", [result["index"] for result in answer.results])
