"""The chat templates: what a model gets for a conversation, exactly, and which conversations are refused.

They are rendered by the function that vLLM renders them with, in transformers: imported where it is used, for it takes
seconds, which a process that runs other tests does not have to spend.
"""

import json
from pathlib import Path
from typing import Any

import mistral_common
import pytest
import yaml
from jinja2 import TemplateError

from service.catalog.chat_templates import Order, infill
from service.catalog.model import Model
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from service.protocol.answers import upstream_error
from tests.support.fleets import CATALOG, ROOT, only

Message = dict[str, Any]
TEMPLATES = ROOT / "models/templates"
GOLDEN: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "tests/golden/templates.yaml").read_text(encoding="utf-8"))
OURS = tuple(name for name in GOLDEN if "/" not in name)
TOOLED = tuple(name for name in OURS if "tool" in GOLDEN[name])
SYSTEM: Message = {"role": "system", "content": "Be brief. "}
TURNS: list[Message] = [
    {"role": "user", "content": " Hello\n"},
    {"role": "assistant", "content": " Hi! "},
    {"role": "user", "content": "Bye"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {
    "id": "chatcmpl-tool-abc123456",
    "type": "function",
    "function": {"name": "add", "arguments": {"a": 1, "b": 2}},
}
CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: Message = {"role": "tool", "content": "3 ", "tool_call_id": CALL["id"]}
USING: list[Message] = [{"role": "user", "content": "What is 1 + 2?"}, CALLING, RESULT]
CONVERSATIONS = {"one": TURNS[:1], "system": [SYSTEM, *TURNS[:1]], "three": TURNS}

every_template = pytest.mark.parametrize("template", GOLDEN)
every_one_of_ours = pytest.mark.parametrize("template", OURS)


def render(template: str, messages: list[Message], **options: Any) -> str:
    """The prompt for a conversation; `options` as transformers and vLLM name them."""
    from transformers.utils.chat_template_utils import render_jinja_template

    golden = GOLDEN[template]
    path = ROOT / "models" / template if "/" in template else TEMPLATES / template
    tokens = {f"{name}_token": golden[name] for name in ("bos", "eos") if name in golden}
    options = {"add_generation_prompt": True, **tokens, **options}
    prompts, _ = render_jinja_template(
        conversations=[messages], chat_template=path.read_text(encoding="utf-8"), **options
    )
    return str(prompts[0])


# What there is


def template_of(model: Model) -> str | None:
    """The template that the catalogue can show for a model that converses."""
    assert model.chat
    if model.path:
        return f"{model.path}/chat_template.jinja"
    return model.chat.template or model.chat.fallback


def test_every_model_that_converses_is_tested() -> None:
    talking = {model.id: template_of(model) for model in CATALOG.models.values() if model.chat}
    # What gpt-oss reads vLLM writes itself, without a template, and no vLLM of today runs Phi-3-small.
    without = {"gpt-oss-20b", "gpt-oss-120b", "phi-3-small-8k-instruct"}
    assert {model_id for model_id, template in talking.items() if template is None} == without
    assert {template for template in talking.values() if template} == set(GOLDEN)
    assert {path.name for path in TEMPLATES.iterdir()} == set(OURS)


def test_the_catalogue_says_where_tools_are_taken() -> None:
    for model in CATALOG.models.values():
        if model.chat and model.chat.tools and (template := template_of(model)):
            assert template in TOOLED, model.id


def test_the_catalogue_says_what_becomes_of_system_text() -> None:
    for model in CATALOG.models.values():
        if model.chat and (template := template_of(model)):
            folded = "Be brief. \n\n" in GOLDEN[template]["system"] and "\n\nUser" not in GOLDEN[template]["system"]
            named = "ystem" in GOLDEN[template]["system"] or "SYS" in GOLDEN[template]["system"]
            if folded and not named:
                assert model.chat.system == "fold", model.id


# What a model gets


@every_template
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt_of_a_conversation(template: str, name: str) -> None:
    assert render(template, CONVERSATIONS[name]) == GOLDEN[template][name]


@every_template
def test_an_answer_need_not_be_asked_for(template: str) -> None:
    golden = GOLDEN[template]
    for name, messages in CONVERSATIONS.items():
        prompt = golden[name].removesuffix(golden.get("opening", ""))
        assert render(template, messages, add_generation_prompt=False) == prompt


@every_template
def test_an_answer_is_gone_on_with(template: str) -> None:
    begun = [TURNS[0], {"role": "assistant", "content": "So far"}]
    prompt = render(template, begun, add_generation_prompt=False, continue_final_message=True)
    assert prompt.endswith("So far")
    opening = GOLDEN[template].get("opening", "").removesuffix("<think>\n").removesuffix("Destination: user\n\n ")
    assert prompt.removesuffix("So far").rstrip().endswith(opening.rstrip())


@every_one_of_ours
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_who_adds_a_bos_gets_none(template: str, name: str) -> None:
    golden = GOLDEN[template]
    bos = golden.get("bos", "") if golden.get("writes_bos", True) else ""
    assert golden[name].startswith(bos)
    assert render(template, CONVERSATIONS[name], bos_is_added=True) == golden[name].removeprefix(bos)


@every_one_of_ours
def test_all_system_text_is_kept(template: str) -> None:
    messages: list[Message] = [SYSTEM, {"role": "system", "content": "Be kind."}, *TURNS]
    prompt = render(template, messages)
    assert prompt.count("Be brief.") == prompt.count("Be kind.") == 1
    assert prompt.index("Be brief.") < prompt.index("Be kind.") < prompt.index("Hello")


@every_one_of_ours
def test_a_template_takes_text_and_not_parts(template: str) -> None:
    """vLLM hands parts to a template that goes through a message's content, and joins them for every other."""
    source = (TEMPLATES / template).read_text(encoding="utf-8")
    assert " in turn['content']" not in source and "in message" not in source.replace("in messages", "")


# Tools


@pytest.mark.parametrize("template", TOOLED)
def test_a_tool_is_called_and_answers(template: str) -> None:
    assert render(template, USING, tools=TOOLS) == GOLDEN[template]["tool"]


@pytest.mark.parametrize("template", TOOLED)
def test_two_results(template: str) -> None:
    second = {**CALL, "id": "987654321"}
    messages = [USING[0], {**CALLING, "tool_calls": [CALL, second]}, RESULT, {**RESULT, "tool_call_id": "987654321"}]
    if template == "llama-3.jinja":
        with pytest.raises(TemplateError, match="one tool at a time"):
            render(template, messages, tools=TOOLS)
        return
    prompt = render(template, messages, tools=TOOLS)
    assert prompt.count('{"a": 1, "b": 2}') == 2
    assert prompt.count("3 ") == 2


@pytest.mark.parametrize("template", [name for name in OURS if name not in TOOLED])
@pytest.mark.parametrize(
    ("messages", "tools"), [(TURNS, TOOLS), ([TURNS[0], CALLING], None), ([*TURNS[:2], RESULT], None)]
)
def test_a_format_without_tools_says_so(template: str, messages: list[Message], tools: Any) -> None:
    with pytest.raises(TemplateError, match="This model has no tools: leave out"):
        render(template, messages, tools=tools)


def test_thoughts_of_earlier_turns_are_dropped() -> None:
    thought: Message = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi!"}
    talk = [TURNS[0], thought, TURNS[2]]
    assert "Hm." not in render("chatml.jinja", talk) and "assistant\nHi!" in render("chatml.jinja", talk)
    assert "Hm." not in render("deepseek-r1.jinja", talk)
    for template in ("chatml.jinja", "deepseek-r1.jinja"):
        begun = render(template, talk[:2], add_generation_prompt=False, continue_final_message=True)
        assert begun.endswith("Hm.\n</think>\n\nHi!")


def test_qwen_need_not_think() -> None:
    assert render("chatml.jinja", TURNS, enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert render("chatml.jinja", TURNS, enable_thinking=True) == GOLDEN["chatml.jinja"]["three"]


# What is refused

OUT_OF_TURN: list[tuple[list[Message], str]] = [
    ([TURNS[1]], "expected user, found assistant"),
    ([SYSTEM, TURNS[1]], "expected user, found assistant"),
    ([TURNS[0], TURNS[0]], "expected assistant, found user"),
    ([*TURNS, TURNS[0]], "expected assistant, found user"),
]


@pytest.mark.parametrize("template", [name for name in OURS if GOLDEN[name].get("turns")])
@pytest.mark.parametrize(("messages", "complaint"), OUT_OF_TURN)
def test_messages_out_of_turn_are_refused(template: str, messages: list[Message], complaint: str) -> None:
    if template == "mistral-v7.jinja" and not any(message["role"] == "user" for message in messages):
        complaint = "no user message"
    with pytest.raises(TemplateError, match=complaint):
        render(template, messages)


@pytest.mark.parametrize("template", ["mistral-v3.jinja", "mistral-v7.jinja"])
@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([TURNS[0], RESULT], "expected assistant, found tool"),
        ([*TURNS[:2], RESULT], "expected user, found tool"),
        ([TURNS[0], CALLING, TURNS[1]], "expected tool, found assistant"),
        ([TURNS[0], CALLING, RESULT, TURNS[2]], "expected tool, found user"),
    ],
)
def test_results_follow_calls(template: str, messages: list[Message], complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        render(template, messages, tools=TOOLS)


@pytest.mark.parametrize("template", [name for name in OURS if GOLDEN[name].get("turns")])
def test_somebody_must_ask(template: str) -> None:
    with pytest.raises(TemplateError, match="no user message"):
        render(template, [SYSTEM])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return only(tmp_path_factory.mktemp("fleet"), "model: pebble-chat")


@every_one_of_ours
@pytest.mark.parametrize(
    "messages",
    [*(messages for messages, _ in OUT_OF_TURN), [SYSTEM], [TURNS[0], RESULT], [TURNS[0], CALLING, RESULT], USING],
)
def test_what_a_template_refuses_the_gateway_explains(
    template: str, messages: list[Message], served: ServedModel
) -> None:
    """Every complaint of ours is known to the gateway, which tells the client what to do in words of its own."""
    try:
        render(template, messages)
    except TemplateError as error:
        body = json.dumps({"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}})
        told: ApiError = upstream_error(400, body.encode(), served)
        assert (told.status, told.code, told.param) == (400, "invalid_conversation", "messages")
        assert "check the roles" not in told.message, "the gateway says more where a template of ours does"


# What reaches the model: tokens

DATA = Path(mistral_common.__file__).parent / "data"
MARKERS = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")


@pytest.fixture(scope="module")
def mistral_v1() -> Any:
    """Mistral's own first tokenizer and prompt format, which Mixtral and Zephyr share the vocabulary of."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_file(str(DATA / "tokenizer.model.v1"))


def llama_tokenizer(folder: Path, pieces: Any, kind: str, model_type: str) -> Any:
    """A tokenizer of the kind that the hub has for the Llama of that time, as transformers loads it."""
    from transformers import AutoTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.vocab_size())}
    merges = generate_merges(vocabulary, {piece: pieces.get_score(index) for piece, index in vocabulary.items()})
    markers = {marker: len(vocabulary) + index for index, marker in enumerate(MARKERS)} if "Code" in kind else {}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for text, index in ({"<unk>": 0, "<s>": 1, "</s>": 2} | markers).items()
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "vocab": vocabulary | markers, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True,
        "add_bos_token": True, "add_eos_token": False,
    }  # fmt: skip
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("config.json", {"model_type": model_type}),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["mistral", "llama"])
def of_the_hub(request: pytest.FixtureRequest, mistral_v1: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same vocabulary, as transformers loads it for a Mistral (from its file) and for a Llama (by its class)."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    return llama_tokenizer(tmp_path_factory.mktemp("v1"), pieces, "LlamaTokenizer", request.param)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello there"}],
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, you"}, TURNS[2]],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n\n there"}],
    ],
)
def test_mistral_gets_the_tokens_of_its_makers(messages: list[Any], mistral_v1: Any, of_the_hub: Any) -> None:
    """Their text has a space after BOS and EOS, which is none: sentencepiece shows the start of a word so."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    wanted = mistral_v1.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
    assert of_the_hub.encode(render("mistral-v1.jinja", messages), add_special_tokens=False) == wanted


@pytest.mark.parametrize("name", ["zephyr.jinja", "solar.jinja", "phi-3.jinja", "orca-2.jinja", "mistral-v1.jinja"])
def test_a_bos_is_the_same_whoever_adds_it(name: str, of_the_hub: Any) -> None:
    """`/v1/responses` tokenizes with special tokens; the tokens are those of the other endpoints all the same."""
    written = of_the_hub.encode(render(name, TURNS), add_special_tokens=False)
    assert of_the_hub.encode(render(name, TURNS, bos_is_added=True)) == written
    assert written[0] == of_the_hub.bos_token_id and written[1] != of_the_hub.bos_token_id


# Code Llama's markers


@pytest.fixture(scope="module")
def code_llama(mistral_v1: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with Code Llama's markers, of the class that its repositories name."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    return llama_tokenizer(tmp_path_factory.mktemp("code"), pieces, "CodeLlamaTokenizer", "llama")


@pytest.mark.parametrize("order", ["prefix_first", "suffix_first"])
@pytest.mark.parametrize("model_id", ["code-llama-7b", "code-llama-13b-instruct"])
@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("def f(x):\n    ", "\n    return y\n"),
        ("x = ", " + 1"),
        ('def f(s: str) -> str:\n    """ ', "\n    return s\n"),
        ("print('Hello w", "orld')"),
        ("    indented", ""),
        ("", "def f"),
    ],
)
def test_code_llama_gets_the_tokens_of_its_makers(
    order: Order, model_id: str, prefix: str, suffix: str, code_llama: Any, mistral_v1: Any
) -> None:
    """As Meta's code puts them together: a text is encoded by itself, the suffix without the space before a word."""
    pieces = mistral_v1.instruct_tokenizer.tokenizer._model
    pre, suf, mid = code_llama.convert_tokens_to_ids(list(MARKERS[:3]))
    before, after = pieces.encode(prefix), pieces.encode("☺" + suffix)[2:]
    assert len(pieces.encode("☺")) == 2
    wanted = [1, pre, *before, suf, *after, mid] if order == "prefix_first" else [1, pre, suf, *after, mid, *before]
    form = CATALOG.models[model_id].infill
    assert form
    assert code_llama.encode(infill(form, prefix, suffix, order)) == wanted
