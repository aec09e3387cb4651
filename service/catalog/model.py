"""The schema of `models/<family>.yaml`: one family of models and its checkpoints; and of the task table."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, field_validator, model_validator

from service.architectures.parameters import count_parameters
from service.architectures.registry import ARCHITECTURES, Architecture
from service.architectures.shape import Shape
from service.catalog.engine_args import EngineSettings
from service.catalog.names import POOLING, Specialty, Variant
from service.config.strict_yaml import Frozen

Capability = Literal["chat", "completion", "infill", "embedding", "rerank", "vision"]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]


def _short_as_a_path(name: str) -> str:
    if len(name.encode()) > MAX_ID_BYTES:
        raise ValueError(f"is longer than {MAX_ID_BYTES} bytes")
    return name


MAX_ID_BYTES = 200  # an id is a part of file names, which have at most 255 bytes
# Letters and digits of any script, Latin ones small: `qwen3:8b`, `gpt-9[1m]`, `模型`. No slash, for file names. The
# length is no part of the pattern: a class of all scripts that is repeated 95 times takes 10 MB.
ModelId = Annotated[
    str, Field(pattern=r"^[^\W_A-Z](?:[^\WA-Z]|[.:@\[\]-])*$", max_length=96), AfterValidator(_short_as_a_path)
]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
TokenId = Annotated[int, Field(ge=0)]


class Licence(Frozen):
    """The licence of the weights; null means unknown.

    `gated`: the hub hands out the weights only after the terms have been accepted, and asks for a token. `commercial`:
    whether commercial use is allowed, perhaps under conditions that `note` gives.
    """

    name: str | None = None
    gated: bool | None = None
    commercial: bool | None = None
    note: str | None = None


class Tokens(Frozen):
    """Ids of the beginning-of-text and end-of-text tokens; `eos` has all that the tokenizer's configuration names."""

    bos: TokenId | None = None
    eos: tuple[TokenId, ...] = ()


class Chat(Frozen):
    """The model's chat format.

    `template` is a file under `models/templates/` that is always used; `fallback` is one that is used only if the
    weights have no chat template of their own, as is the case with some quantised copies. `system`: 'fold' puts the
    system message in front of the first user message, for formats without a system role. `tools`: whether the template
    supports tools. `stop` and `stop_token_ids` end a turn in addition to the tokenizer's EOS.
    """

    template: str | None = None
    fallback: str | None = None
    system: Literal["native", "fold", "refuse"] | None = None
    tools: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()

    @model_validator(mode="after")
    def _has_one_template(self) -> "Chat":
        if self.template and self.fallback:
            raise ValueError("give 'template' (always used) or 'fallback' (if the weights have none), not both")
        return self


class Thinking(Frozen):
    """Whether the model thinks before it answers; vLLM's reasoning parser separates the thoughts from the answer.

    `default` says what it does when a request does not say; 'always' and 'never' cannot be switched. `switch` is the
    key of `chat_template_kwargs` that turns thinking on (true) or off (false). `levels` are the values that the
    request's `reasoning_effort` can have.
    """

    default: Literal["always", "on", "off", "never"]
    switch: str | None = None
    levels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_switch_only_if_it_can_be_switched(self) -> "Thinking":
        if self.default in ("always", "never") and (self.switch or self.levels):
            raise ValueError(f"a model that thinks '{self.default}' has neither 'switch' nor 'levels'")
        return self


class Infill(Frozen):
    """The model's fill-in-the-middle format: a prompt with `{prefix}` and `{suffix}`, and what ends the completion.

    `suffix_first` is the prompt with the suffix before the prefix, for families that were trained on both orders.
    """

    prompt: str
    suffix_first: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()

    @field_validator("prompt", "suffix_first")
    @classmethod
    def _has_both_placeholders(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        for placeholder in ("{prefix}", "{suffix}"):
            if prompt is not None and prompt.count(placeholder) != 1:
                raise ValueError(f"the prompt must contain {placeholder} exactly once")
        return prompt


class Copy(Frozen):
    """A quantised copy of the model, in a repository of its own."""

    hub: Repository
    quantization: Literal["awq", "gptq", "fp8", "mxfp4", "nvfp4", "w4a16"]


class Model(Frozen):
    """One checkpoint. Lengths are in tokens; null means unknown, and nothing is guessed.

    `path` is a folder of weights, relative to the catalogue's folder or absolute. `context` is what the model's
    configuration declares; `longest` is the longer context that its authors say it can be extended to, if any. `dtype`
    is that of the published weights. `vision`: whether a conversation may have images. `thinking`: null if unknown.
    """

    id: ModelId
    variant: Variant
    hub: Repository | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    path: str | None = None
    gated: bool | None = None
    licence: Licence | None = None
    version: str | None = None
    size: str | None = None
    specialty: Specialty | None = None
    architecture: str | None = None
    parameters: PositiveInt | None = None
    dtype: Literal["bfloat16", "float16", "float32", "fp8", "int4", "mxfp4"] | None = None
    context: PositiveInt | None = None
    longest: PositiveInt | None = None
    shape: Shape = Shape()
    tokens: Tokens = Tokens()
    vision: bool = False
    chat: Chat | None = None
    thinking: Thinking | None = None
    infill: Infill | None = None
    copies: tuple[Copy, ...] = ()
    engine: EngineSettings = Field(default_factory=dict)
    note: str | None = None

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in ARCHITECTURES:
            known = ", ".join(sorted(ARCHITECTURES))
            raise ValueError(f"'{name}' is not one of {known}; leave it out for any other architecture")
        return name

    @model_validator(mode="after")
    def _is_consistent(self) -> "Model":
        if (self.hub is None) == (self.path is None):
            raise ValueError("give either 'hub' (a repository) or 'path' (a folder of weights), not both")
        if self.chat and self.variant in ("base", *POOLING):
            raise ValueError(f"a model of variant '{self.variant}' cannot have a 'chat' block")
        if (self.vision or self.thinking) and not self.chat:
            raise ValueError("only a model with a 'chat' block can have 'vision' or 'thinking'")
        if self.thinking and self.thinking.default == "never" and self.engine.get("reasoning_parser"):
            raise ValueError(
                "a model that never thinks cannot have a 'reasoning_parser': vLLM would take its answers for thoughts"
            )
        if self.specialty and self.variant != "code":
            raise ValueError("only a model of variant 'code' can have a 'specialty'")
        if self.longest and self.longest <= (self.context or 0):
            raise ValueError("'longest' must be greater than 'context'")
        return self

    @model_validator(mode="after")
    def _shape_fits_architecture(self) -> "Model":
        network = self.network
        if network is None:
            return self
        foreign = [key for key in self.shape.model_fields_set
                   if getattr(self.shape, key) is not None and key not in network.sizes]  # fmt: skip
        if foreign:
            raise ValueError(f"'shape' has {', '.join(sorted(foreign))}, which {self.architecture} does not have")
        counted = count_parameters(network, self.shape, self.context)
        if None not in (counted, self.parameters) and counted != self.parameters:
            raise ValueError(
                f"'parameters' is {self.parameters}, but the shape gives {counted}: one of the two is wrong"
            )
        return self

    @property
    def network(self) -> Architecture | None:
        """How its network is built; None if the architecture is unknown."""
        return ARCHITECTURES[self.architecture] if self.architecture else None

    @property
    def chosen_copy(self) -> Copy | None:
        """The quantised copy that `hub` names; None if it names the original weights."""
        return next((copy for copy in self.copies if copy.hub == self.hub), None)

    @property
    def opening_context(self) -> int | None:
        """vLLM's default for `max_model_len`, in tokens: with LongRoPE, the context before the extension."""
        scaling = self.shape.rope_scaling
        if scaling and scaling.rope_type == "longrope":
            return scaling.original_max_position_embeddings
        return self.context

    def too_long(self, length: int) -> str | None:
        """The error for a `max_model_len` of `length` tokens; None if the model can take it or its limit is unknown."""
        limit = self.longest or self.context
        if limit is None or length <= limit:
            return None
        reason = "its authors support no more" if self.longest else "its configuration declares no more"
        return f"max_model_len {length} is more than the {limit} tokens of '{self.id}': {reason}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The kinds of request that the model can serve."""
        if self.variant == "embedding":
            return frozenset({"embedding"})
        if self.variant == "reranker":
            return frozenset({"rerank"})
        found: set[Capability] = {"completion"}
        if self.chat:
            found.add("chat")
        if self.infill:
            found.add("infill")
        if self.vision:
            found.add("vision")
        return frozenset(found)


class Family(Frozen):
    """Models with one origin, in one file."""

    family: Identifier
    title: str
    licence: Licence
    models: Annotated[tuple[Model, ...], Field(min_length=1)]


class Task(Frozen):
    """A task that requests can name as `task:NAME`; `about` describes it in one line.

    `suits` are the variants that do it well, best first; `otherwise` are those that are used if none of them is served.
    `specialty` is what a code model needs to do it well.
    """

    about: str
    suits: Annotated[tuple[Variant, ...], Field(min_length=1)]
    otherwise: tuple[Variant, ...] = ()
    specialty: Specialty | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants that can do the task, best first."""
        return self.suits + self.otherwise

    def suited(self, model: Model) -> bool:
        """Whether the model's variant, and for code its specialty, suits the task."""
        has_specialty = model.variant != "code" or self.specialty in (None, model.specialty)
        return has_specialty and model.variant in self.suits


class Tasks(Frozen):
    """The task table: the file `models/tasks.yaml`."""

    tasks: dict[str, Task]
