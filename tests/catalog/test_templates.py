"""The chat templates: the exact prompt for a conversation, and which conversations are rejected.

They are rendered with the function of transformers that vLLM uses. It is imported where it is used, because the import
takes seconds, which a process that runs other tests should not spend.
"""

import json
from typing import Any

import pytest
import yaml
from jinja2 import TemplateError

from service.catalog.model import Model
from service.fleet.served_model import ServedModel
from service.protocol.requests import ChatRequest
from service.protocol.upstream_errors import Rejected, upstream_error
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT, only

Message = dict[str, Any]
CHAT = ChatRequest(model="m", messages=[])
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

every_template = each("template", GOLDEN)
every_one_of_ours = each("template", OURS)


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


# Coverage


def template_of(model: Model) -> str | None:
    """The template of a chat model, relative to `models/`; None if it is not in the repository."""
    assert model.chat
    if model.path:
        return f"{model.path}/chat_template.jinja"
    return model.chat.template or model.chat.fallback


def test_every_chat_model_is_tested() -> None:
    templates = {model.id: template_of(model) for model in CATALOG.models.values() if model.chat}
    assert {template for template in templates.values() if template} == set(GOLDEN)
    assert {path.name for path in TEMPLATES.iterdir()} == set(OURS)


def test_catalogue_declares_tools_only_for_templates_that_support_them() -> None:
    for model in CATALOG.models.values():
        if model.chat and model.chat.tools and (template := template_of(model)):
            assert template in TOOLED, model.id


def test_catalogue_declares_folded_system_messages() -> None:
    for model in CATALOG.models.values():
        if model.chat and (template := template_of(model)):
            folded = "Be brief. \n\n" in GOLDEN[template]["system"] and "\n\nUser" not in GOLDEN[template]["system"]
            named = "ystem" in GOLDEN[template]["system"] or "SYS" in GOLDEN[template]["system"]
            if folded and not named:
                assert model.chat.system == "fold", model.id


# Prompts


@every_template
@each("name", CONVERSATIONS)
def test_rendered_prompt(template: str, name: str) -> None:
    assert render(template, CONVERSATIONS[name]) == GOLDEN[template][name]


@every_template
def test_without_generation_prompt(template: str) -> None:
    golden = GOLDEN[template]
    for name, messages in CONVERSATIONS.items():
        prompt = golden[name].removesuffix(golden.get("opening", ""))
        assert render(template, messages, add_generation_prompt=False) == prompt


@every_template
def test_continue_final_message(template: str) -> None:
    messages = [TURNS[0], {"role": "assistant", "content": "So far"}]
    prompt = render(template, messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt.endswith("So far")
    opening = GOLDEN[template].get("opening", "").removesuffix("<think>\n").removesuffix("Destination: user\n\n ")
    assert prompt.removesuffix("So far").rstrip().endswith(opening.rstrip())


@every_one_of_ours
@each("name", CONVERSATIONS)
def test_no_bos_if_the_tokenizer_adds_it(template: str, name: str) -> None:
    golden = GOLDEN[template]
    bos = golden.get("bos", "") if golden.get("writes_bos", True) else ""
    assert golden[name].startswith(bos)
    assert render(template, CONVERSATIONS[name], bos_is_added=True) == golden[name].removeprefix(bos)


@every_one_of_ours
def test_all_system_messages_are_kept_in_order(template: str) -> None:
    messages: list[Message] = [SYSTEM, {"role": "system", "content": "Be kind."}, *TURNS]
    prompt = render(template, messages)
    assert prompt.count("Be brief.") == prompt.count("Be kind.") == 1
    asked = "Bye" if template == "mistral-v3.jinja" else "Hello"  # the message that they stand before
    assert prompt.index("Be brief.") < prompt.index("Be kind.") < prompt.index(asked)


@every_one_of_ours
def test_templates_take_content_as_text(template: str) -> None:
    """vLLM passes a list of parts to templates that iterate over a message's content, and joined text to all others."""
    source = (TEMPLATES / template).read_text(encoding="utf-8")
    assert " in turn['content']" not in source and "in message" not in source.replace("in messages", "")


# Tools


@pytest.mark.parametrize("template", TOOLED)
def test_tool_call_and_result(template: str) -> None:
    assert render(template, USING, tools=TOOLS) == GOLDEN[template]["tool"]


@pytest.mark.parametrize("template", TOOLED)
def test_two_tool_calls_and_results(template: str) -> None:
    second = {**CALL, "id": "987654321"}
    result: Message = {**RESULT, "content": "three"}
    messages = [USING[0], {**CALLING, "tool_calls": [CALL, second]}, result, {**result, "tool_call_id": "987654321"}]
    if template == "llama-3.jinja":
        with pytest.raises(TemplateError, match="one tool at a time"):
            render(template, messages, tools=TOOLS)
        return
    prompt = render(template, messages, tools=TOOLS)
    assert prompt.count('{"a": 1, "b": 2}') == 2
    assert prompt.count("three") == 2


@each("template", [name for name in OURS if name not in TOOLED])
@each(("messages", "tools"), [(TURNS, TOOLS), ([TURNS[0], CALLING], None), ([*TURNS[:2], RESULT], None)])
def test_template_without_tools_rejects_them(template: str, messages: list[Message], tools: Any) -> None:
    with pytest.raises(TemplateError, match="This model has no tools: leave out"):
        render(template, messages, tools=tools)


def test_reasoning_of_earlier_turns_is_dropped() -> None:
    reasoning: Message = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi!"}
    messages = [TURNS[0], reasoning, TURNS[2]]
    assert "Hm." not in render("chatml.jinja", messages) and "assistant\nHi!" in render("chatml.jinja", messages)
    assert "Hm." not in render("deepseek-r1.jinja", messages)
    for template in ("chatml.jinja", "deepseek-r1.jinja"):
        continued = render(template, messages[:2], add_generation_prompt=False, continue_final_message=True)
        assert continued.endswith("Hm.\n</think>\n\nHi!")


def test_qwen_enable_thinking() -> None:
    assert render("chatml.jinja", TURNS, enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert render("chatml.jinja", TURNS, enable_thinking=True) == GOLDEN["chatml.jinja"]["three"]


# Rejected conversations

OUT_OF_ORDER: list[tuple[list[Message], str]] = [
    ([TURNS[1]], "expected user, found assistant"),
    ([SYSTEM, TURNS[1]], "expected user, found assistant"),
    ([TURNS[0], TURNS[0]], "expected assistant, found user"),
    ([*TURNS, TURNS[0]], "expected assistant, found user"),
]


@each("template", [name for name in OURS if GOLDEN[name].get("turns")])
@each(("messages", "problem"), OUT_OF_ORDER)
def test_roles_out_of_order_are_rejected(template: str, messages: list[Message], problem: str) -> None:
    if template == "mistral-v7.jinja" and not any(message["role"] == "user" for message in messages):
        problem = "no user message"
    with pytest.raises(TemplateError, match=problem):
        render(template, messages)


@pytest.mark.parametrize("template", ["mistral-v3.jinja", "mistral-v7.jinja"])
@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([TURNS[0], RESULT], "expected assistant, found tool"),
        ([*TURNS[:2], RESULT], "expected user, found tool"),
        ([TURNS[0], CALLING, TURNS[1]], "expected tool, found assistant"),
        ([TURNS[0], CALLING, RESULT, TURNS[2]], "expected tool, found user"),
    ],
)
def test_tool_results_must_follow_tool_calls(template: str, messages: list[Message], problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        render(template, messages, tools=TOOLS)


@pytest.mark.parametrize("template", [name for name in OURS if GOLDEN[name].get("turns")])
def test_conversation_without_user_message_is_rejected(template: str) -> None:
    with pytest.raises(TemplateError, match="no user message"):
        render(template, [SYSTEM])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return only(tmp_path_factory.mktemp("fleet"), "model: pebble-chat")


@every_one_of_ours
@each(
    "messages",
    [*(messages for messages, _ in OUT_OF_ORDER), [SYSTEM], [TURNS[0], RESULT], [TURNS[0], CALLING, RESULT], USING],
)
def test_gateway_explains_template_errors(template: str, messages: list[Message], served: ServedModel) -> None:
    """The gateway knows every error of our templates, and tells the client what to do."""
    try:
        render(template, messages)
    except TemplateError as error:
        body = json.dumps({"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}})
        told = upstream_error(400, body.encode(), served, Rejected(CHAT, b"{}"))
        assert (told.status, told.code, told.param) == (400, "invalid_conversation", "messages")
        assert "check the roles" not in told.message, "that is the message for unknown template errors"
