"""What becomes of the fields of a request body that its struct does not have: one table, by endpoint.

A field of a struct is passed to the engine, or acted on (`rewrites`). Of the others a hint that nothing here can use is
*ignored*: taken, dropped, named in the response's `x-roundhouse-ignored-fields`, and counted. One that would change who
is served what, reach outside, or ask for what silence would falsify is *refused* with the reason. A field that the
table does not have is ignored; with `unknown_fields: refuse` in the fleet file it is refused.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from service.auth.tenants import OptInField
from service.fleet.request_bounds import RequestBounds
from service.protocol import validation_errors
from service.protocol.anthropic import CountRequest, MessagesRequest
from service.protocol.moderations import ModerationRequest
from service.protocol.requests import Body, ChatRequest, CompletionRequest, EmbeddingsRequest, ResponsesRequest
from service.protocol.scoring import SIDES, RerankRequest, ScoreRequest
from service.protocol.tokenization import DetokenizeRequest, TokenizeRequest


@dataclass(frozen=True)
class Rule:
    """What becomes of a field, and why: for `refuse` the reason and the remedy that the client is told."""

    action: Literal["ignore", "refuse"]
    why: str


def _rules(action: Literal["ignore", "refuse"], *groups: tuple[str, str]) -> dict[str, Rule]:
    """The rules of `groups`: the names of some fields, separated by spaces, and what is said of each of them."""
    return {name: Rule(action, why) for names, why in groups for name in names.split()}


NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
OPT_IN: tuple[str, ...] = get_args(OptInField)
NOT_OPENED = "it is not opened for this tenant: leave it out, or ask whoever runs the service for 'allow_fields'"
STRUCTURED = "structured_outputs"
TAG_NOT_OPENED = f"a structural_tag is a grammar, and '{STRUCTURED}' is not opened for this tenant: send a json_schema"
HINT = "it is for the vendor's own servers"
ENGINE_INTERNAL = "it steers the engine's internals and is not for clients: leave it out"

_CACHE_HINTS = _rules(
    "ignore",
    ("prompt_cache_retention prompt_cache_options", "the engine's prefix cache decides by itself what it keeps"),
)
_ENGINE = _rules(
    "refuse",
    ("priority", "send the header x-roundhouse-priority instead"),
    ("request_id", "send the header x-request-id instead"),
    ("vllm_xargs kv_transfer_params ec_transfer_params mm_payload return_mm_kwargs session_id", ENGINE_INTERNAL),
    ("mm_processor_kwargs media_io_kwargs", "it changes how the engine decodes media: leave it out"),
    ("routed_experts_prompt_start watermarking repetition_detection", ENGINE_INTERNAL),
)
_GENERATION = _rules(
    "refuse",
    ("use_beam_search length_penalty", "beam search multiplies the work of a request: use n instead"),
    ("prompt_embeds", "tensors are not accepted from clients: send text or token ids"),
)
_TEMPLATE = _rules("refuse", ("chat_template", "the model's own chat template is used: leave it out"))
_SCORING = {
    **{name: _ENGINE[name] for name in ("priority", "request_id", "mm_processor_kwargs")},
    **_rules("refuse", ("padding", ENGINE_INTERNAL)),
}

RULES: Mapping[type[Body], Mapping[str, Rule]] = MappingProxyType(
    {
        ChatRequest: {
            **_CACHE_HINTS,
            **_ENGINE,
            **_GENERATION,
            **_TEMPLATE,
            **_rules(
                "ignore",
                ("verbosity", "open models have no such setting"),
                ("prediction", "speculative decoding is the engine's own setting"),
                ("moderation", "the fleet file says what is moderated, not the request"),
                ("thinking", "thinking is switched by reasoning_effort or chat_template_kwargs"),
                ("store", "chat completions are not stored here"),
                ("metadata safety_identifier service_tier modalities", HINT),
            ),
            **_rules(
                "refuse",
                ("functions function_call", "they are an older form of tools and tool_choice: use those"),
                ("audio", "no model here speaks: leave it out"),
                ("web_search_options", "nothing here searches the web: leave it out, or give the model a tool"),
            ),
        },
        CompletionRequest: {**_ENGINE, **_GENERATION},
        ResponsesRequest: {
            **_CACHE_HINTS,
            **_ENGINE,
            **_rules(
                "ignore",
                ("client_metadata", "it describes the client's machine"),
                ("safety_identifier service_tier", HINT),
                ("context_management", HINT),
                ("stream_options background_options access_programs", HINT),
                ("moderation", "the fleet file says what is moderated, not the request"),
            ),
            **_rules(
                "refuse",
                ("prompt", "stored prompts do not exist here: send instructions and input"),
                ("image", "no model here draws: leave it out"),
                ("previous_input_messages enable_response_messages", ENGINE_INTERNAL),
            ),
        },
        CountRequest: {
            **_rules(
                "ignore",
                ("cache_control", "the engine's prefix cache needs no marks"),
                ("context_management compaction betas speed billing_policy", HINT),
                ("user_profile_id workspace_id", "it names an account at the vendor"),
                (
                    "max_tokens temperature top_p top_k stop_sequences metadata service_tier",
                    "it does not change the count",
                ),
            ),
            **_rules("refuse", ("mcp_servers", "nothing here connects to other servers")),
        },
        MessagesRequest: {
            **_ENGINE,
            **_rules(
                "ignore",
                ("cache_control", "the engine's prefix cache needs no marks"),
                ("context_management compaction betas speed billing_policy safeguards diagnostics inference_geo", HINT),
                ("user_profile_id workspace_id fallback_credit_token", "it names an account at the vendor"),
                ("metadata service_tier", HINT),
                ("fallbacks", "the model that is asked for answers, or none"),
                ("thread", "nothing is stored here: the request's own messages count"),
            ),
            **_rules(
                "refuse",
                ("mcp_servers", "nothing here connects to other servers"),
                ("container", "nothing here runs code"),
            ),
        },
        EmbeddingsRequest: {
            **_ENGINE,
            **_rules(
                "refuse",
                ("messages chat_template chat_template_kwargs", "send texts or token ids as input"),
                ("add_generation_prompt continue_final_message", "send texts or token ids as input"),
                ("embed_dtype endianness", "encoding_format says how the vectors are written"),
                ("padding", ENGINE_INTERNAL),
            ),
        },
        RerankRequest: {
            **_SCORING,
            **_rules("ignore", ("max_chunks_per_doc", "documents are not cut into chunks")),
            **_rules(
                "refuse",
                ("rank_fields", "documents are ranked by their text alone: send as text what should count"),
                ("return_embeddings", "a reranker gives no embeddings: leave it out"),
            ),
        },
        ScoreRequest: _SCORING,
        TokenizeRequest: {**_TEMPLATE, **{name: _ENGINE[name] for name in ("mm_processor_kwargs", "media_io_kwargs")}},
        DetokenizeRequest: {},
        ModerationRequest: {},
    }
)

_ALL = {"model": "resolved to a served model, whose id the engine gets", "stream": "decides how the answer is sent"}
_LIMIT = "bounds the answer; counted against rate limits"
_STOP = "those of the model's prompt format are added"
_SALTED = {"cache_salt": "mixed into the tenant's own, which divides the prefix cache; every request gets one"}
_USAGE = "usage is always asked of the engine, and shown if the client asked for it"
_THINKING = "passed to a model that has a reasoning parser, otherwise ignored"
_NO_STREAM = "accepted and dropped"
_BOUNDS = RequestBounds()
_PAIRED = f"at most {_BOUNDS.paired_characters} characters in all, the query counted once for each document"
_SIDES = (
    f"a string, or a list of at most {_BOUNDS.inputs}: as many as on the other side, or one of the first side for all; "
    + " or ".join(f"`{first}` with `{second}`" for first, second in SIDES)
)
_MESSAGES = "read to route the request, images are checked, and passed"
_SERVER_TOOLS = "tools that the vendor's servers run are left out and named as ignored"

ACTED: Mapping[type[Body], Mapping[str, str]] = MappingProxyType(
    {
        ChatRequest: {
            **_ALL,
            **_SALTED,
            "stream_options": _USAGE,
            "messages": _MESSAGES,
            "max_tokens": _LIMIT,
            "max_completion_tokens": _LIMIT,
            "stop": _STOP,
            "stop_token_ids": _STOP,
            "prompt_cache_key": "chooses the replica, and is passed",
        },
        CompletionRequest: {
            **_ALL,
            **_SALTED,
            "stream_options": _USAGE,
            "prompt": "with `suffix` rendered as the model's fill-in-the-middle format, otherwise passed",
            "suffix": "rendered into the prompt of a model that can fill in the middle",
            "infill_order": "of prefix and suffix in that prompt: `prefix_first` or `suffix_first`",
            "max_tokens": _LIMIT,
            "stop": _STOP,
            "stop_token_ids": _STOP,
        },
        ResponsesRequest: {
            **_ALL,
            **_SALTED,
            "input": "items without `type` get the one they lack; images are checked; references are replaced by the "
            "stored items",
            "tools": "a grammar for the input of a custom tool is left out and named as ignored",
            "include": "values that vLLM does not know are left out and named as ignored",
            "max_output_tokens": _LIMIT,
            "chat_template_kwargs": "passed with `bos_is_added`, which keeps a prompt from beginning twice",
            "prompt_cache_key": "chooses the replica, and is passed",
            "store": "whether the [store](responses.md), if there is one, keeps the response; engines get `false`",
            "previous_response_id": "the stored conversation is put before the input; refused without a store",
            "background": "the request runs without its client; refused without a store",
            "conversation": "refused: send `previous_response_id`, or the whole conversation",
        },
        CountRequest: {**_ALL, "messages": _MESSAGES, "tools": _SERVER_TOOLS, "thinking": _THINKING},
        MessagesRequest: {
            **_ALL,
            **_SALTED,
            "messages": _MESSAGES,
            "tools": _SERVER_TOOLS,
            "tool_choice": "left out with the tool that it names",
            "thinking": _THINKING,
            "output_format": "sent as `output_config.format`, its later name",
            "max_tokens": _LIMIT,
            "stop_sequences": _STOP,
        },
        EmbeddingsRequest: {**_ALL, **_SALTED, "stream": "accepted if false"},
        RerankRequest: {
            **_ALL,
            **_SALTED,
            "stream": "accepted if false",
            "query": _PAIRED,
            "documents": f"at most {_BOUNDS.inputs} strings, or objects of which only `text` counts; see `query`",
            "return_documents": "`false` leaves the documents out of the answer, which otherwise has them",
        },
        ScoreRequest: {
            **_ALL,
            **_SALTED,
            "stream": "accepted if false",
            **{name: _SIDES for sides in SIDES for name in sides},
        },
        TokenizeRequest: {
            **_ALL,
            "stream": _NO_STREAM,
            "prompt": "passed; either this or `messages`",
            "messages": f"{_MESSAGES}; rendered by the model's chat template",
        },
        DetokenizeRequest: {**_ALL, "stream": _NO_STREAM},
        ModerationRequest: {
            "model": "a guard or a step of `guardrails`, by its name; without one the first that there is",
            "stream": _NO_STREAM,
            "input": f"judged: a string, a list of at most {_BOUNDS.inputs} strings, or a list of parts of type `text`",
        },
    }
)
"""What Roundhouse does with fields of a struct that it acts on, in words for the documentation."""


def check(kind: type[Body], name: str, refuse_unknown: bool) -> None:
    """Returns if the field is ignored; raises the 400 that says why if it is refused."""
    rule = RULES[kind].get(name)
    if rule is None and not refuse_unknown:
        return
    if rule is None:
        raise validation_errors.unknown_field(kind, name)
    if rule.action == "refuse":
        raise validation_errors.unsupported_field(kind, name, rule.why)


def check_opened(request: Body, opened: Collection[str]) -> None:
    """Raises the 400 for a field that is opened for single tenants, and not for that of the request."""
    for name in OPT_IN:
        if name not in opened and getattr(request, name, None) is not None:
            raise validation_errors.unsupported_field(type(request), name, NOT_OPENED)
    form = getattr(request, "response_format", None)
    if form and form.type == "structural_tag" and STRUCTURED not in opened:
        raise validation_errors.unsupported_field(type(request), "response_format.type", TAG_NOT_OPENED)


def header_value(ignored: Iterable[str]) -> bytes:
    """Names of fields for a header: those that are harmless there, at most 32."""
    return ", ".join([name for name in ignored if NAME.fullmatch(name)][:32] or ["other"]).encode()


def label(kind: type[Body], name: str) -> str:
    """The field as a metric label: its name if the table has it, otherwise `other`; clients must not create series."""
    known = name.partition("[")[0]
    return known if known in RULES[kind] or known in kind.__struct_fields__ else "other"
