"""A catalogue entry drafted from a description: what the files say, and a list of what they do not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.architectures.parameters import missing, parameters
from service.architectures.parse_config import ReadingError, architecture_of, context_of, shape_of
from service.architectures.registry import ARCHITECTURES
from service.architectures.shape import Shape
from service.catalog import names
from service.catalog.names import Specialty, Variant
from service.onboarding.description import Description, IntakeError

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Overrides:
    """What the user says of the model; None where the files or the name are to be asked.

    `source` is the repository's id or the folder; `template` a file under `models/templates/`.
    """

    source: str
    is_path: bool
    id: str | None = None
    family: str | None = None
    variant: Variant | None = None
    specialty: Specialty | None = None
    template: str | None = None


@dataclass(frozen=True)
class EntryDraft:
    """An entry's fields as they are to be written, its family, and what is missing, a sentence each."""

    family: str
    fields: dict[str, Any]
    unknown: tuple[str, ...]


def draft(said: Overrides, description: Description) -> EntryDraft:
    """The entry; raises IntakeError where something is missing that only the user can say."""
    name = names.parse(said.source)
    identifier = said.id or name.slug
    if not identifier:
        raise IntakeError(f"the name '{said.source}' gives no id: say one with --id")
    variant = said.variant or name.variant
    if variant is None:
        raise IntakeError(
            f"the name '{said.source}' does not tell the variant: say one of base, chat, instruct, code, embedding "
            "with --variant"
        )
    specialty = said.specialty or name.specialty if variant == "code" else None
    unknown = ["its licence: nothing here says under which terms it may be used (add 'licence:' to the entry)"]
    fields: dict[str, Any] = {"id": identifier, "variant": variant, "path" if said.is_path else "hub": said.source}
    fields |= {key: value for key, value in (("version", name.version), ("size", name.size)) if value}
    if specialty:
        fields["specialty"] = specialty
    _add_network(fields, description, unknown)
    _add_tokens(fields, description, unknown)
    if variant in ("chat", "instruct") or specialty == "instruct":
        fields["chat"] = {"template": said.template} if said.template else {}
        if not said.template and not description.has_template:
            unknown.append(
                "its chat template: the files bring none, so chat requests would be refused; say --template with a "
                "file under models/templates/"
            )
    elif said.template:
        raise IntakeError(f"a model of variant '{variant}' holds no conversation: leave --template out")
    if variant == "code":
        unknown.append("whether it fills in the middle: add 'infill:' to the entry if its makers say so")
    return EntryDraft(said.family or name.family or identifier, fields, tuple(unknown))


def _add_network(fields: dict[str, Any], description: Description, unknown: list[str]) -> None:
    config = description.config
    try:
        architecture = architecture_of(config)
        network = ARCHITECTURES.get(architecture)
        if network is None:
            unknown.append(
                f"its network: '{architecture}' is no class that the planner knows, so it cannot plan for it"
            )
            shape = Shape()
        else:
            fields["architecture"] = architecture
            shape = _tied(shape_of(config, network), description)
    except ReadingError as error:
        raise IntakeError(str(error)) from None
    context = context_of(config)
    if network and network.refused:
        unknown.append(f"an engine for it: {network.refused}")
    if network and (lacking := missing(network, shape, context)):
        unknown.append(f"sizes of its network: {', '.join(lacking)} are not in config.json")
    counted = parameters(network, shape, context) if network else None
    weights = description.weights
    if counted is not None and weights and weights.numbers != counted:
        unknown.append(
            f"the number of its parameters: the shape makes {counted}, and the files hold {weights.numbers} "
            "(quantised weights, a vision tower or shared tensors do that)"
        )
    elif weights or counted:
        fields["parameters"] = weights.numbers if weights else counted
    dtype = (weights.dtype if weights else None) or config.get("dtype", config.get("torch_dtype"))
    if dtype in DTYPES:
        fields["dtype"] = dtype
    if context:
        fields["context"] = context
    else:
        unknown.append("its context length: config.json does not say it")
    if sizes := shape.model_dump(exclude_none=True):
        fields["shape"] = sizes


def _tied(shape: Shape, description: Description) -> Shape:
    """With what the tensors show: a network whose head has no weights of its own shares its embeddings."""
    if shape.tie_word_embeddings is not None or description.weights is None:
        return shape
    return shape.model_copy(update={"tie_word_embeddings": "lm_head.weight" not in description.weights.names})


def _add_tokens(fields: dict[str, Any], description: Description, unknown: list[str]) -> None:
    config, generation = description.config, description.generation
    eos = dict.fromkeys((*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))))
    bos = next(_ids(config.get("bos_token_id")), None)
    if bos is not None or eos:
        fields["tokens"] = ({"bos": bos} if bos is not None else {}) | ({"eos": list(eos)} if eos else {})
    if not eos and fields["variant"] != "embedding":
        unknown.append("which token ends a text: neither config.json nor generation_config.json says it")


def _ids(written: Any) -> Iterator[int]:
    listed = written if isinstance(written, list) else [written]
    return iter([one for one in listed if isinstance(one, int) and not isinstance(one, bool) and one >= 0])
