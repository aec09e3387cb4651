"""Every field of vLLM's own request models is decided, so that a new release's new field fails until somebody does."""

from typing import Any, get_args

import pytest

from service.protocol.fields import RULES
from service.protocol.parts import PLAIN, REFUSED
from tests.protocol.test_generation import (
    CHAT,
    COMPLETIONS,
    COUNT,
    DETOKENIZE,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
    TOKENIZE,
)

pytestmark = pytest.mark.slow  # importing vLLM takes many seconds


@pytest.mark.filterwarnings("ignore")
def test_every_field_of_vllms_requests_is_decided() -> None:
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
    from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest

    models: dict[str, tuple[Any, ...]] = {
        CHAT: (ChatCompletionRequest,),
        COMPLETIONS: (CompletionRequest,),
        RESPONSES: (ResponsesRequest,),
        MESSAGES: (AnthropicMessagesRequest,),
        COUNT: (AnthropicCountTokensRequest,),
        EMBEDDINGS: (EmbeddingCompletionRequest,),
        RERANK: (RerankRequest,),
        SCORE: get_args(ScoreRequest),
        TOKENIZE: get_args(TokenizeRequest),
        DETOKENIZE: (DetokenizeRequest,),
    }
    assert set(models) == set(ENDPOINTS)
    undecided = {
        (path, name)
        for path, kinds in models.items()
        for name in (field for kind in kinds for field in kind.model_fields)
        if name not in ENDPOINTS[path].body.__struct_fields__ and name not in RULES[ENDPOINTS[path].body]
    }
    assert not undecided


@pytest.mark.filterwarnings("ignore")
def test_every_type_of_part_that_vllm_loads_is_decided() -> None:
    from vllm.renderers.chat_utils import MM_PARSER_MAP

    named = {"image_url", "input_image"}  # whose data must be in the request
    assert set(MM_PARSER_MAP) == PLAIN | (REFUSED.keys() - {"file", "input_file"}) | named | {"tool_reference"}
