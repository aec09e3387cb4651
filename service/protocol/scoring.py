"""Reranking and scoring: how relevant documents are to a query, as numbers; their bodies, and a ranking's documents.

`/rerank` has Cohere's and Jina's shape, `/score` vLLM's. The engine is given texts alone, so a document that is an
object counts as its `text`.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from service.protocol import validation_errors
from service.protocol.requests import Body, CacheSalt, Text
from service.protocol.template_arguments import TemplateArguments


class Document(Struct, gc=False):
    """A document that is an object, as Cohere and Jina have them; its other members are not read."""

    text: str


Documents = Annotated[list[str | Document], Meta(min_length=1)]
Texts = Annotated[list[str], Meta(min_length=1)]
# The names that vLLM has for both sides of a pair.
SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


class Scoring(Body, kw_only=True):
    """What reranking and scoring share. Each pair is a sequence for an engine."""

    prompt_name: ClassVar[str] = "A query with one of its documents"
    private_fields: ClassVar[tuple[str, ...]] = ("user",)
    generates: ClassVar[bool] = False
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    instruction: Text | None = None
    chat_template_kwargs: TemplateArguments | None = None
    use_activation: bool | None = None
    cache_salt: CacheSalt | None = None
    user: str | None = None

    @property
    def pairs(self) -> tuple[Sequence[str | Document], Sequence[str | Document]]:
        """Both sides: lists of one length, or the first of a single text that goes with each of the second."""
        raise NotImplementedError

    def count_sequences(self) -> int:
        return len(self.pairs[1])

    def prompt_bytes(self, size: int) -> int:
        return max(size, self.paired_chars)

    @property
    def paired_chars(self) -> int:
        """The characters that an engine reads: a query that goes with every document is read with each of them."""
        first, second = (sum(len(_text(text)) for text in side) for side in self.pairs)
        return first * (self.count_sequences() if len(self.pairs[0]) == 1 else 1) + second

    def __post_init__(self) -> None:
        if self.stream:
            raise validation_errors.invalid_value("stream", "it should be false")
        most = min(self.bounds.inputs, self.bounds.sequences)
        if self.count_sequences() > most:
            raise validation_errors.invalid_value(self.prompt_field, f"it should have at most {most} items")
        if self.paired_chars > self.bounds.paired_characters:
            raise validation_errors.contradiction(
                f"Query and documents are {self.paired_chars} characters together, where the query counts once for "
                f"each document; {self.bounds.paired_characters} are the most in one request. Send fewer documents, "
                "or a shorter query."
            )


class RerankRequest(Scoring, kw_only=True):
    """`POST /rerank`; also `/v1/rerank` and `/v2/rerank`."""

    prompt_field: ClassVar[str] = "documents"
    query: Text
    documents: Documents
    top_n: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    return_documents: bool | None = None

    @property
    def pairs(self) -> tuple[Sequence[str | Document], Sequence[str | Document]]:
        """The query, and the documents."""
        return (self.query,), self.documents


class ScoreRequest(Scoring, kw_only=True):
    """`POST /score`; also `/v1/score`. Its sides have the names of one row of `SIDES`."""

    text_1: str | Texts | None = None
    text_2: str | Texts | None = None
    queries: str | Texts | None = None
    documents: str | Texts | None = None
    items: str | Texts | None = None
    data_1: str | Texts | None = None
    data_2: str | Texts | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """The names of both sides in this request."""
        given = {name for side in SIDES for name in side if getattr(self, name) is not None}
        found = next((sides for sides in SIDES if given == set(sides)), None)
        if found is None:
            names = ", ".join(f"{first} and {second}" for first, second in SIDES)
            raise validation_errors.contradiction(f"Send two sides of texts, by the names of one pair: {names}.")
        return found

    @property
    def prompt_field(self) -> str:  # type: ignore[override]
        """The second side, which has the documents."""
        return self.sides[1]

    @property
    def pairs(self) -> tuple[Sequence[str], Sequence[str]]:
        """Both sides as lists."""
        first, second = (getattr(self, name) for name in self.sides)
        return [first] if isinstance(first, str) else first, [second] if isinstance(second, str) else second

    def __post_init__(self) -> None:
        first, second = self.pairs
        if len(first) not in (1, len(second)):
            name, other = self.sides
            raise validation_errors.invalid_value(
                name, f"it has {len(first)} texts and '{other}' has {len(second)}; it should have as many, or one"
            )
        Scoring.__post_init__(self)


def engine_documents(request: RerankRequest) -> dict[str, Any]:
    """The fields that an engine gets otherwise: documents that are objects become texts."""
    if all(isinstance(document, str) for document in request.documents):
        return {}
    return {"documents": [_text(document) for document in request.documents]}


def is_bare_ranking(request: Body) -> bool:
    """Whether the client wants places and scores without the documents."""
    return getattr(request, "return_documents", None) is False


def without_documents(response: bytes) -> bytes:
    """The response to a ranking without the texts of its documents, for a client that wants only their places."""
    try:
        body = json.loads(response)
        for result in body["results"]:
            del result["document"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return response
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text
