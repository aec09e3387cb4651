"""What a model is, as written in `models/<family>.yaml`: one checkpoint, and the family it belongs to."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from service.architectures.parameters import parameters
from service.architectures.registry import ARCHITECTURES, Architecture
from service.architectures.shape import Shape
from service.catalog.engine_args import EngineSettings
from service.catalog.names import Specialty, Variant
from service.config.strict_yaml import Frozen

Capability = Literal["chat", "completion", "infill", "embedding"]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
TokenId = Annotated[int, Field(ge=0)]


class Licence(Frozen):
    """Under which terms the weights may be used; null is unknown.

    `gated`: the hub asks for consent and a token. `commercial`: whether earning money with it is allowed, perhaps
    under conditions that `note` names.
    """

    name: str | None = None
    gated: bool | None = None
    commercial: bool | None = None
    note: str | None = None


class Tokens(Frozen):
    """Ids of the tokens that begin and end a text; `eos` holds all that the tokenizer's own settings name."""

    bos: TokenId | None = None
    eos: tuple[TokenId, ...] = ()


class Chat(Frozen):
    """How the model takes a conversation.

    `template` is a file under `models/templates/` that is always used; `fallback` one that is used only where the
    weights bring none of their own, as some quantised copies do. `system`: 'fold' puts a system message in front of the
    first user message, for formats without that role. `tools`: whether the template takes tools. `stop` and
    `stop_token_ids` end a turn beyond the tokenizer's EOS.
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
            raise ValueError("give 'template' (always used) or 'fallback' (where the weights have none), not both")
        return self


class Infill(Frozen):
    """How the model fills in the middle: a prompt with `{prefix}` and `{suffix}`, and the tokens that end it.

    `suffix_first` is the other order, for families that were trained on both.
    """

    prompt: str
    suffix_first: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()

    @field_validator("prompt", "suffix_first")
    @classmethod
    def _has_both_places(cls, form: str | None, info: ValidationInfo) -> str | None:
        for place in ("{prefix}", "{suffix}"):
            if form is not None and form.count(place) != 1:
                raise ValueError(f"the infilling prompt must hold {place} exactly once")
        return form


class Copy(Frozen):
    """The same model quantised by somebody, in a repository of its own."""

    hub: Repository
    quantization: Literal["awq", "gptq", "fp8", "mxfp4"]


class Model(Frozen):
    """One checkpoint. Lengths are in tokens; null means unknown, and unknown is never guessed.

    `context` is what its configuration declares; `longest` what its makers say it can be stretched to, if more.
    `dtype` is that of the published weights.
    """

    id: Identifier
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
    dtype: Literal["bfloat16", "float16", "float32", "mxfp4"] | None = None
    context: PositiveInt | None = None
    longest: PositiveInt | None = None
    shape: Shape = Shape()
    tokens: Tokens = Tokens()
    chat: Chat | None = None
    infill: Infill | None = None
    copies: tuple[Copy, ...] = ()
    engine: EngineSettings = Field(default_factory=dict)
    note: str | None = None

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in ARCHITECTURES:
            known = ", ".join(sorted(ARCHITECTURES))
            raise ValueError(f"'{name}' is not one of {known}; leave it out if it is unknown")
        return name

    @model_validator(mode="after")
    def _is_consistent(self) -> "Model":
        if (self.hub is None) == (self.path is None):
            raise ValueError("give either 'hub' (a repository) or 'path' (embedded weights), and not both")
        if self.chat and self.variant in ("base", "embedding"):
            raise ValueError(f"a model of variant '{self.variant}' has no 'chat' block")
        if self.specialty and self.variant != "code":
            raise ValueError("only a model of variant 'code' has a 'specialty'")
        if self.longest and self.longest <= (self.context or 0):
            raise ValueError("'longest' must be more than 'context'")
        return self

    @model_validator(mode="after")
    def _has_a_shape_of_its_architecture(self) -> "Model":
        built = self.network
        if built is None:
            return self
        foreign = [key for key in self.shape.model_fields_set
                   if getattr(self.shape, key) is not None and key not in built.keys]  # fmt: skip
        if foreign:
            raise ValueError(f"a {self.architecture} has no {', '.join(sorted(foreign))}: see its 'shape'")
        counted = parameters(built, self.shape, self.context)
        if None not in (counted, self.parameters) and counted != self.parameters:
            raise ValueError(f"the shape makes {counted} parameters, not {self.parameters}: one of the two is wrong")
        return self

    @property
    def network(self) -> Architecture | None:
        """How its network is built, where the architecture is known."""
        return ARCHITECTURES[self.architecture] if self.architecture else None

    @property
    def chosen_copy(self) -> Copy | None:
        """The copy that it was asked for by, if by one."""
        return next((copy for copy in self.copies if copy.hub == self.hub), None)

    @property
    def opening_context(self) -> int | None:
        """The context in tokens that vLLM starts with when nobody asks for more: LongRoPE opens at its original one."""
        scaling = self.shape.rope_scaling
        if scaling and scaling.rope_type == "longrope":
            return scaling.original_max_position_embeddings
        return self.context

    def too_long(self, length: int) -> str | None:
        """Why no engine takes a context of `length` tokens, if that is known."""
        most = self.longest or self.context
        if most is None or length <= most:
            return None
        how = "its makers vouch for no more" if self.longest else "its configuration declares no more"
        return f"max_model_len {length} is more than the {most} tokens of '{self.id}': {how}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What requests the model can answer."""
        if self.variant == "embedding":
            return frozenset({"embedding"})
        found: set[Capability] = {"completion"}
        if self.chat:
            found.add("chat")
        if self.infill:
            found.add("infill")
        return frozenset(found)


class Family(Frozen):
    """Models with one origin: one file."""

    family: Identifier
    title: str
    licence: Licence
    models: Annotated[tuple[Model, ...], Field(min_length=1)]


class Task(Frozen):
    """Something that models are asked to do, in one line `about`.

    `suits` are the variants that do it well, best first, and `otherwise` those that are tried where none of them is
    served. `specialty` is what a code model needs to do it well.
    """

    about: str
    suits: Annotated[tuple[Variant, ...], Field(min_length=1)]
    otherwise: tuple[Variant, ...] = ()
    specialty: Specialty | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants that are tried, best first."""
        return self.suits + self.otherwise

    def suited(self, model: Model) -> bool:
        """Whether the model does this well."""
        able = model.variant != "code" or self.specialty in (None, model.specialty)
        return able and model.variant in self.suits


class Tasks(Frozen):
    """The task table: the file `models/tasks.yaml`."""

    tasks: dict[str, Task]
