"""Which parsers are chosen for models outside of the catalogue, from excerpts of templates as they are written."""

import pytest

from service.catalog.parsers import FORMATS, choose
from tests.support.each import each

QUESTION = "{%- for m in messages %}{{- '<|im_start|>' + m.role + m.content }}{%- endfor %}"
PROMPT = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
OPEN = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
HERMES = '{{- "<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args>}\\n</tool_call>" }}'
HISTORY = "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}"
QWEN3_SWITCH = (
    "{%- if add_generation_prompt %}{{- 'assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>' }}{%- endif %}"
    "{%- endif %}"
)
QWEN35_SWITCH = QWEN3_SWITCH.replace("{%- endif %}", "{%- else %}{{- '<think>\\n' }}{%- endif %}", 1)
XML = "{{- '<tool_call>\\n<function=' + name + '>' }}"
GLM = "{{- '<arg_key>' }}{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}"
SMOLLM = "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}<think>"
NEMOTRON = "{%- set enable_thinking = enable_thinking if enable_thinking is defined else True %}<think>" + XML
KIMI = (
    "<|tool_calls_section_begin|>"
    "{%- if thinking is defined and thinking is false -%}<think></think>{%- else -%}<think>{%- endif -%}"
)
DEEPSEEK_V3 = "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + type + '<｜tool▁sep｜>' + name + '\\n```json'}}"
DEEPSEEK_V31 = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{{'<｜tool▁calls▁begin｜>' + name + '<｜tool▁sep｜>'}}<think>"
)
GEMMA = "{%- if enable_thinking is defined and enable_thinking -%}<|think|>{%- endif -%}<|channel> <|tool_call>call:"
LLAMA = """{{- 'In the format {"name": function name, "parameters": dictionary of argument name and its value}' }}"""
PYTHONIC = "{{- '[func_name1(params_name1=params_value1)]' }}"
MISTRAL = "{{- '[TOOL_CALLS]' }}"


@each(
    ("architecture", "template", "tools", "reasoning"),
    [
        # Models that never think get no parser for thoughts, though their templates strip them from old answers.
        ("Qwen3ForCausalLM", QUESTION + HERMES + HISTORY + PROMPT, "hermes", None),
        ("Qwen3MoeForCausalLM", QUESTION + XML + PROMPT, "qwen3_coder", None),
        ("LlamaForCausalLM", QUESTION + LLAMA + PROMPT, "llama3_json", None),
        ("MistralForCausalLM", QUESTION + MISTRAL, "mistral", None),
        ("LlamaForCausalLM", QUESTION + PROMPT, None, None),
        # By default, with a switch.
        ("Qwen3ForCausalLM", QUESTION + HERMES + QWEN3_SWITCH, "hermes", "qwen3"),
        ("Qwen3_5ForConditionalGeneration", QUESTION + XML + QWEN35_SWITCH, "qwen3_coder", "qwen3"),
        ("SmolLM3ForCausalLM", SMOLLM, None, "qwen3"),
        ("NemotronHForCausalLM", NEMOTRON, "qwen3_coder", "nemotron_v3"),
        ("Glm4MoeForCausalLM", GLM, "glm45", "glm45"),
        ("KimiK25ForConditionalGeneration", KIMI, "kimi_k2", "kimi_k2"),
        # Always: the template opens the thought.
        ("Qwen3ForCausalLM", QUESTION + HERMES + OPEN, "hermes", "deepseek_r1"),
        ("MiniMaxM2ForCausalLM", "<minimax:tool_call>" + OPEN, "minimax_m2", "minimax_m2"),
        ("Olmo3ForCausalLM", "<function_calls>" + OPEN, "olmo3", "olmo3"),
        # On request: only a parser that takes a text without marks for the answer.
        ("DeepseekV3ForCausalLM", DEEPSEEK_V31, "deepseek_v31", "deepseek_v3"),
        ("Gemma4ForConditionalGeneration", GEMMA, "gemma4", "gemma4"),
        ("Qwen3ForCausalLM", HERMES + "{% set enable_thinking = false %}<think>", "hermes", None),
        (
            "Qwen3ForCausalLM",
            HERMES + "{% if enable_thinking is not defined or enable_thinking is false %}<think></think>{% endif %}",
            "hermes",
            None,
        ),
        # The class decides where the template does not.
        ("DeepseekV3ForCausalLM", DEEPSEEK_V3, "deepseek_v3", None),
        ("GptOssForCausalLM", None, "openai", None),
        ("GraniteMoeHybridForCausalLM", HERMES, "granite4", None),
        ("Llama4ForConditionalGeneration", PYTHONIC, "llama4_pythonic", None),
        ("LlamaForCausalLM", PYTHONIC, "pythonic", None),
        (None, QUESTION + HERMES, "hermes", None),
        (None, None, None, None),
    ],
)
def test_parsers(architecture: str | None, template: str | None, tools: str | None, reasoning: str | None) -> None:
    settings, _ = choose(architecture, template)
    assert settings.get("tool_call_parser") == tools
    assert settings.get("reasoning_parser") == reasoning
    assert settings.get("enable_auto_tool_choice", False) is (tools is not None)


@pytest.mark.parametrize(
    ("architecture", "template", "said"),
    [
        (
            "Qwen3ForCausalLM",
            HERMES + QWEN3_SWITCH,
            "tool_call_parser hermes (by the chat template) and reasoning_parser qwen3 (it thinks unless told not to)",
        ),
        ("GptOssForCausalLM", None, "tool_call_parser openai (by the class GptOssForCausalLM) and no reasoning_parser"),
        ("X", QUESTION, "no tool_call_parser (the chat template shows no known format) and no reasoning_parser"),
        ("X", None, "no tool_call_parser and no reasoning_parser, for no chat template of it is here"),
    ],
)
def test_the_choice_is_explained_with_what_overrides_it(architecture: str, template: str | None, said: str) -> None:
    _, sentence = choose(architecture, template)
    assert sentence.startswith(said)
    assert sentence.endswith("to choose others, set them in 'engine' of its entry, null for none")


def test_an_ordinary_text_has_none_of_the_formats() -> None:
    assert choose(None, QUESTION + PROMPT)[0] == {}
    assert len({one.marker for one in FORMATS}) == len(FORMATS)
