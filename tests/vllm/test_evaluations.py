"""What evaluation programs ask, of the gateway and of its engine: the numbers are the same.

The requests are those of lm-evaluation-harness for log likelihoods and for generation: lists of token lists or texts,
`echo` with `logprobs`, one token. A continuation's log likelihood is the sum of its tokens' log probabilities.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.support.services import ROOT, Service
from tests.vllm.conftest import MODEL, RealEngine

pytestmark = pytest.mark.engine

PATH = "/v1/completions"
TOKENIZER = Tokenizer.from_file(str(ROOT / "models/pebble" / MODEL / "tokenizer.json"))
TEXTS = ("The ferry leaves at noon", "My name is Ilsa", "One kiln, two kilns", "A gauge shows")
CHOICES = (" from the east pier.", " and I count barrels.")
SCORED = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
GENERATED = {"temperature": 0.0, "max_tokens": 12, "seed": 1234, "stop": ["\n\n", "Question:", "Q:", "</s>", "<|end|>"]}


def tokens(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


PAIRS = [tokens(text + choice) for text in TEXTS for choice in CHOICES]
# How many choices the answer has, and the request.
REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one prompt of tokens": (1, {"prompt": PAIRS[:1], **SCORED}),
    "eight prompts of tokens": (8, {"prompt": PAIRS, **SCORED}),
    "128 prompts of tokens": (128, {"prompt": PAIRS * 16, **SCORED}),
    "one text": (1, {"prompt": TEXTS[0] + CHOICES[0], **SCORED}),
    "128 texts": (128, {"prompt": [text + choice for text in TEXTS for choice in CHOICES] * 16, **SCORED}),
    "the most log probabilities": (8, {"prompt": PAIRS, **SCORED, "logprobs": 20}),
    "generation": (4, {"prompt": [tokens(text) for text in TEXTS], **GENERATED}),
    "choices": (4, {"prompt": tokens(TEXTS[0]), **GENERATED, "temperature": 0.7, "n": 4}),
}


@pytest.fixture
async def both(pebble: Service, real_engine: RealEngine) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of the gateway and of its engine."""
    direct = httpx.AsyncHTTPTransport(uds=str(real_engine.socket))
    async with (
        httpx.AsyncClient(base_url=pebble.url, timeout=300, verify=False) as gateway,
        httpx.AsyncClient(base_url="http://engine", transport=direct, timeout=300) as engine,
    ):
        yield gateway, engine


async def ask(client: httpx.AsyncClient, fields: dict[str, Any]) -> dict[str, Any]:
    """The answer, without what differs from one to the next."""
    response = await client.post(PATH, json={"model": MODEL, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return {name: value for name, value in answer.items() if name not in ("id", "created", "system_fingerprint")}


def likelihoods(answer: dict[str, Any]) -> list[float]:
    """The log likelihood of all but the first token of each prompt, as the harness adds them up."""
    return [sum(choice["logprobs"]["token_logprobs"][1:-1]) for choice in answer["choices"]]


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_gateway_answers_what_the_engine_does(
    name: str, both: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    count, fields = REQUESTS[name]
    gateway, engine = [await ask(client, fields) for client in both]
    assert [choice["index"] for choice in gateway["choices"]] == [*range(count)]
    texts = [[choice["text"] for choice in answer["choices"]] for answer in (gateway, engine)]
    assert texts[0] == texts[1]
    if "logprobs" in fields:
        assert likelihoods(gateway) == likelihoods(engine)
        assert all(value < 0 for value in likelihoods(gateway))
        assert [choice["logprobs"] for choice in gateway["choices"]] == [
            choice["logprobs"] for choice in engine["choices"]
        ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": PAIRS * 16 + PAIRS[:1], **SCORED}, "prompt"),
        ({"prompt": PAIRS, **SCORED, "logprobs": 21}, "logprobs"),
        ({"prompt": PAIRS * 16, "n": 17}, "n"),
    ],
)
async def test_more_than_a_request_may_ask_for_is_refused(fields: dict[str, Any], param: str, pebble: Service) -> None:
    async with httpx.AsyncClient(base_url=pebble.url, verify=False) as client:
        response = await client.post(PATH, json={"model": MODEL, **fields})
    assert response.status_code == 400
    assert json.loads(response.text)["error"]["param"] == param
