"""How much one request may ask for, as the fleet file says: requests are checked and engines are set by it."""

from typing import Annotated

from pydantic import Field

from service.config.strict_yaml import Frozen

ENGINE_LOGPROBS = 20  # that an engine gives at most, unless it is told otherwise
CATALOGUE_STOPS = 8  # stop strings of a model's prompt format, beside those of a client

Count = Annotated[int, Field(ge=1, le=2**20)]
Logprobs = Annotated[int, Field(ge=0, le=2**20)]


class RequestBounds(Frozen):
    """The most of each that one request may have; docs/fleet.md explains each key.

    `messages` are those of a conversation or the items of an `input`, `parts` those of the content of one of them, and
    `json_depth` objects and lists within one another in the whole body. A large body has at most `json_members`
    strings, names and values, and as many objects and lists.

    `n`, `prompts` and `inputs` are choices, prompts of a completion and texts to embed, and `sequences` what they are
    for an engine, prompts times choices, which generate at most `output_tokens` together. `inputs` is also the
    documents to score against a query, and `paired_characters` those of all documents and of the query, which counts
    once for each of them.

    `stop_characters` bounds the length of each of the `stop` strings, `schema_bytes` that of each tool, and of each
    field with a schema or grammar, which an engine compiles. `schema_depth` is that of objects and lists within one
    another in such a schema, `schema_properties` and `schema_enum` are its properties and values of `enum` in all, and
    `schema_pattern` the characters of a `pattern`.
    """

    messages: Count = 4096
    parts: Count = 1024
    json_depth: Annotated[int, Field(ge=8, le=512)] = 128
    json_members: Count = 2**16
    n: Count = 4
    prompts: Count = 128
    inputs: Count = 2048
    paired_characters: Annotated[int, Field(ge=1, le=2**32)] = 2**24
    sequences: Count = 2048
    output_tokens: Annotated[int, Field(ge=1, le=2**40)] = 2**20
    tools: Count = 512
    schema_bytes: Annotated[int, Field(ge=1, le=2**30)] = 2**18
    schema_depth: Annotated[int, Field(ge=1, le=1024)] = 64
    schema_properties: Count = 1000
    schema_enum: Count = 1000
    schema_pattern: Count = 512
    stop: Annotated[int, Field(ge=1, le=1024)] = 8
    stop_characters: Count = 256
    stop_token_ids: Count = 64
    logit_bias: Count = 300
    bad_words: Count = 128
    allowed_token_ids: Count = 4096
    logprob_token_ids: Count = 128
    logprobs: Logprobs = ENGINE_LOGPROBS
    prompt_logprobs: Logprobs = ENGINE_LOGPROBS

    @property
    def most_logprobs(self) -> int:
        """The log probabilities of one token that an engine must be able to give."""
        return max(self.logprobs, self.prompt_logprobs)
