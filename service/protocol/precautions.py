"""What is done about each field and size by which a request could harm others: one table, for docs/compatibility.md.

`what` says it, `bounds` are keys of `request_bounds` in the fleet file, whose defaults the page shows, `opens` the
setting that lets a fleet or a tenant have more, and `tests` who proves it.
"""

from typing import NamedTuple

TENANT = "`allow_fields` of the tenant"
FLEET = "`extra_fields`"
OPT_IN_TEST = "tests/relay/test_opt_in.py::test_a_tenant_may_have_only_the_fields_that_are_opened_for_it"
REFUSED = "tests/protocol/test_fields.py::test_a_rule_decides_what_becomes_of_a_field"
BOUNDED = "tests/protocol/test_bounded.py::test_a_request_is_checked_by_the_bounds_of_the_fleet"
VALUES = "tests/protocol/test_requests.py::test_an_invalid_value_is_rejected_by_name"
SCHEMAS = "tests/checks/test_schema_bounds.py::test_refused"
ACCEPTED = "tests/protocol/test_requests.py::test_every_field_is_accepted"
HEADERS = (
    "tests/relay/test_engine_requests.py::test_no_header_of_a_client_reaches_an_engine_and_none_of_an_engine_a_client"
)
SALTS = "tests/relay/test_cache_salts.py::test_each_tenant_has_its_own"


class Precaution(NamedTuple):
    """One row: `fields` as they are written in bodies, or what else a request consists of."""

    fields: str
    what: str
    tests: tuple[str, ...]
    bounds: tuple[str, ...] = ()
    opens: str = ""


PRECAUTIONS = (
    Precaution(
        "fields that no table has",
        "dropped, named in a header and counted; refused with `unknown_fields: refuse`",
        ("tests/relay/test_ignored_fields.py::test_an_unknown_field_is_dropped_named_and_counted",
         "tests/relay/test_ignored_fields.py::test_a_fleet_may_refuse_what_is_unknown_and_pass_what_it_names"),
        opens=FLEET,
    ),
    Precaution(
        "the body",
        "4 MiB, counted while it is read; only JSON, not compressed, each name once in an object, no NaN, no infinity, "
        "and numbers that are read within 64 bits",
        ("tests/gateway/test_request_body.py::test_body_beyond_the_limit_gets_413",
         "tests/gateway/test_request_body.py::test_compressed_body_gets_415",
         "tests/protocol/test_unique_names.py::test_every_endpoint_refuses_it", VALUES),
        opens="`ROUNDHOUSE_MAX_BODY_BYTES`",
    ),
    Precaution(
        "objects and lists",
        "their depth in the whole body; their number, and that of strings, in one of more than 128 KiB",
        ("tests/protocol/test_structure.py::test_every_endpoint_is_bounded",), ("json_depth", "json_members"),
    ),
    Precaution(
        "`messages`, `input` and their parts",
        "their number. More than 1024 and 64, for long sessions of agents have them",
        (BOUNDED,), ("messages", "parts"),
    ),
    Precaution(
        "`role`, and the `name` of a tool",
        "64 and 128 characters. What they may be is the template's business: they stand in the client's own prompt",
        (VALUES,),
    ),
    Precaution(
        "`model`", "at most 128 characters; engines get the id that it is resolved to",
        (VALUES, "tests/relay/test_relay.py::test_only_the_model_name_is_rewritten"),
    ),
    Precaution(
        "`max_tokens`, `max_completion_tokens`, `max_output_tokens`",
        "at most the context; two that differ are refused; the sequences of a request share `output_tokens`",
        (VALUES, "tests/relay/test_budgets.py::test_the_sequences_of_a_request_share_what_they_may_generate",
         "tests/relay/test_budgets.py::test_the_largest_output_is_bounded"),
        ("output_tokens",), "`max_output_tokens` of the tenant takes away",
    ),
    Precaution("`n`", "its number. Vendors allow up to 128, all of which run at once", (BOUNDED,), ("n",)),
    Precaution(
        "`best_of`, `use_beam_search`, `length_penalty`", "refused, but for `best_of: 1`",
        (VALUES, REFUSED), opens=FLEET,
    ),
    Precaution(
        "`prompt`, `input`, `documents`",
        "their number, and prompts times choices. Evaluation programs send more than 8 prompts at once",
        (BOUNDED, "tests/protocol/test_bounded.py::test_a_query_counts_once_for_each_of_its_documents"),
        ("prompts", "inputs", "sequences", "paired_characters"),
    ),
    Precaution(
        "prompts of token ids", "from 0 to 2³¹-1; engines check them against their vocabulary",
        (VALUES, "tests/vllm/test_crash_inputs.py::test_none_of_them_harms_an_engine"),
    ),
    Precaution(
        "`echo`, `logprobs`, `top_logprobs`",
        "their number, also with `echo`, by which evaluation programs measure texts. OpenAI's API has the same bound",
        (BOUNDED, "tests/vllm/test_crash_inputs.py::test_none_of_them_harms_an_engine"), ("logprobs",),
    ),
    Precaution(
        "`prompt_logprobs`, `logprob_token_ids`, `return_token_ids`, `return_prompt_text`, `return_token_offsets`",
        "refused: they show what a format hides, and cost by the length of a prompt",
        (OPT_IN_TEST, BOUNDED), ("prompt_logprobs", "logprob_token_ids"), TENANT,
    ),
    Precaution(
        "`return_tokens_as_token_ids`, `return_token_strs`",
        "passed: they write otherwise what the answer has anyway",
        (ACCEPTED,),
    ),
    Precaution(
        "`routed_experts_prompt_start`, `enable_response_messages`, `previous_input_messages`", "refused",
        (REFUSED,), opens=FLEET,
    ),
    Precaution(
        "`logit_bias`", "its members, token ids with values from -100 to 100", (BOUNDED, VALUES), ("logit_bias",),
    ),
    Precaution(
        "`allowed_token_ids`, `bad_words`, `stop_token_ids`, `min_tokens`, `ignore_eos`, `thinking_token_budget`, "
        "`truncate_prompt_tokens`, `truncation_side`, `skip_special_tokens`, `include_stop_str_in_output`, "
        "`spaces_between_special_tokens`, `stream_interval`",
        "refused: they make answers longer than they would be, or show control tokens",
        (OPT_IN_TEST, BOUNDED), ("allowed_token_ids", "bad_words", "stop_token_ids"), TENANT,
    ),
    Precaution("`repetition_detection`", "refused", (REFUSED,), opens=FLEET),
    Precaution(
        "`stop`, `stop_sequences`", "their number and length. Evaluation programs send more than 4",
        (BOUNDED,), ("stop", "stop_characters"),
    ),
    Precaution(
        "`temperature`, `top_p`, `top_k`, `min_p`, `seed`, penalties",
        "to the API's range, finite. `n` above 1 with a temperature of 0, which engines refuse, is a 400 that says so",
        (VALUES, "tests/vllm/test_rejections.py::test_the_client_is_told_what_to_change"),
    ),
    Precaution(
        "schemas: `response_format`, `text`, `output_config`, `output_format`",
        "their size, and they are [compiled beforehand](security.md#what-is-checked-before-an-engine-sees-it). A "
        "`structural_tag` counts as `structured_outputs`",
        (SCHEMAS, OPT_IN_TEST, "tests/protocol/test_bounded.py::test_a_schema_is_bounded_in_bytes",
         "tests/relay/test_screening.py::test_a_schema_is_compiled_before_an_engine_gets_it"),
        ("schema_bytes", "schema_depth", "schema_properties", "schema_enum", "schema_pattern"), TENANT,
    ),
    Precaution(
        "`structured_outputs`",
        "refused; where it is opened, bounded and compiled beforehand. `guided_json`, `guided_regex` and the like are "
        "fields that no table has",
        (OPT_IN_TEST, "tests/checks/test_structured.py::test_what_is_compiled"), opens=TENANT,
    ),
    Precaution(
        "`tools`",
        "their number and size. Coding agents send more than 64. Tools that only a vendor's servers run, and grammars "
        "of custom tools, are left out; `functions` and `mcp_servers` are refused",
        (BOUNDED, "tests/protocol/test_bounded.py::test_a_schema_is_bounded_in_bytes",
         "tests/protocol/test_adaptations.py::test_what_the_engine_does_not_take_is_changed", REFUSED),
        ("tools", "schema_bytes"),
    ),
    Precaution("`chat_template`", "refused, also in `chat_template_kwargs`",
        (REFUSED, "tests/protocol/test_fields.py::test_arguments_of_a_template_are_its_own_variables"), opens=FLEET),
    Precaution(
        "`chat_template_kwargs`", "variables of the model's own template, of bounded size; none of the renderer's own",
        ("tests/protocol/test_fields.py::test_arguments_of_a_template_are_its_own_variables",
         "tests/protocol/test_bounded.py::test_a_schema_is_bounded_in_bytes"), ("schema_bytes",),
    ),
    Precaution(
        "`documents`, `add_generation_prompt`, `continue_final_message`, `add_special_tokens`",
        "passed: they change the client's own prompt, and agents continue answers with them",
        (ACCEPTED,),
    ),
    Precaution(
        "`media_io_kwargs`, `mm_processor_kwargs`, `mm_payload`, `return_mm_kwargs`, `prompt_embeds`, parts with "
        "tensors, audio, video or files, `uuid`",
        "refused", (REFUSED, "tests/protocol/test_parts.py::test_what_no_engine_may_get_is_refused"),
    ),
    Precaution(
        "images", "only data that is in the request, never a URL; number, bytes, pixels; they are decoded beforehand",
        ("tests/relay/test_no_way_out.py::test_no_url_is_passed_to_an_engine_or_fetched",
         "tests/relay/test_images.py::test_bounds_are_those_of_the_fleet_file",
         "tests/relay/test_screening.py::test_images_are_decoded_before_an_engine_gets_them"),
        opens="`images` of the model",
    ),
    Precaution("`cache_salt`", "ours, by tenant; the client's is mixed in", (SALTS,), opens="`prefix_cache: shared`"),
    Precaution(
        "`request_id`, `priority`, `session_id`, `kv_transfer_params`, `ec_transfer_params`, `vllm_xargs`, "
        "`watermarking`",
        "refused; headers of ours say the first two", (REFUSED,), opens=FLEET,
    ),
    Precaution(
        "`user`, `safety_identifier`, `metadata`", "dropped: engines do not learn who asks",
        ("tests/relay/test_absent_fields.py::test_no_engine_learns_who_asks",),
    ),
    Precaution(
        "`prompt_cache_key`", "chooses the replica; what is cached there is divided by `cache_salt`", (SALTS,),
    ),
    Precaution(
        "`store`, `background`, `previous_response_id`, `conversation`",
        "our own store, by tenant, or refused; engines store nothing",
        ("tests/relay/test_stored.py::test_another_tenants_id_is_one_that_does_not_exist",
         "tests/relay/test_stored.py::test_what_needs_a_store_is_refused_where_there_is_none",
         "tests/protocol/test_adaptations.py::test_no_engine_stores_a_response"),
    ),
    Precaution(
        "`stream_options`", "usage is always asked of the engine, and shown to those who want it",
        ("tests/protocol/test_streams.py::test_usage_that_was_not_requested_is_recorded_and_dropped",),
    ),
    Precaution(
        "headers", "none of a client's reaches an engine, and none of an engine's a client; `Content-Encoding`, and a "
        "length that is said twice, are refused",
        (HEADERS,
         "tests/gateway/test_request_body.py::test_ambiguous_body_length_is_refused"),
    ),
)  # fmt: skip
