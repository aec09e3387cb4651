"""Drafts a catalogue entry from a model's files, with a list of what they do not say. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from service.architectures.parameters import count_parameters, missing_sizes
from service.architectures.parse_config import ModelConfigError, parse_architecture, parse_context, parse_shape
from service.architectures.registry import ARCHITECTURES
from service.architectures.shape import Shape
from service.catalog import names, parsers
from service.catalog.names import POOLING, Specialty, Variant
from service.onboarding.model_files import ModelFiles, OnboardingError

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Overrides:
    """What the user gives about the model; None for what the files or the name are to decide.

    `source` is a hub id, or a folder if `is_path`; `template` is a file under `models/templates/`.
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
    """The fields of an entry, its family, and a line of text for each thing that is missing."""

    family: str
    fields: dict[str, Any]
    missing: tuple[str, ...]


def draft(overrides: Overrides, files: ModelFiles) -> EntryDraft:
    """The entry; raises OnboardingError if something is missing that only the user can give."""
    name = names.parse(overrides.source)
    identifier = overrides.id or name.slug
    if not identifier:
        raise OnboardingError(f"no id can be derived from '{overrides.source}': give one with --id")
    variant = overrides.variant or name.variant
    if variant is None:
        raise OnboardingError(
            f"no variant can be derived from '{overrides.source}': give {', '.join(get_args(Variant)[:-1])} or "
            f"{get_args(Variant)[-1]} with --variant"
        )
    specialty = overrides.specialty or name.specialty if variant == "code" else None
    missing = ["licence: not in the files; add 'licence:' to the entry"]
    source_key = "path" if overrides.is_path else "hub"
    fields: dict[str, Any] = {"id": identifier, "variant": variant, source_key: overrides.source}
    fields |= {key: value for key, value in (("version", name.version), ("size", name.size)) if value}
    if specialty:
        fields["specialty"] = specialty
    _add_network(fields, files, missing)
    _add_tokens(fields, files, missing)
    if variant in ("chat", "instruct", "guard") or specialty == "instruct":
        fields["chat"] = {"template": overrides.template} if overrides.template else {}
        chosen, _ = parsers.choose(parse_architecture(files.config), files.template)
        if chosen and not overrides.template:
            fields["engine"] = chosen
        if not overrides.template and files.template is None:
            missing.append(
                "chat template: the files have none, so chat requests would be refused; give a file under "
                "models/templates/ with --template"
            )
    elif overrides.template:
        raise OnboardingError(f"a model of variant '{variant}' has no chat template: leave out --template")
    if variant == "code":
        missing.append("infill format: add 'infill:' to the entry if the model was trained to fill in the middle")
    return EntryDraft(overrides.family or name.family or identifier, fields, tuple(missing))


def _add_network(fields: dict[str, Any], files: ModelFiles, missing: list[str]) -> None:
    config = files.config
    try:
        architecture = parse_architecture(config)
        network = ARCHITECTURES.get(architecture)
        if network is None:
            missing.append(f"network shape: the planner does not know the class '{architecture}', so it cannot plan it")
            shape = Shape()
        else:
            fields["architecture"] = architecture
            shape = _with_tied_embeddings(parse_shape(config, network), files)
    except ModelConfigError as error:
        raise OnboardingError(str(error)) from None
    context = parse_context(config)
    if network and network.refused:
        missing.append(f"engine: {network.refused}")
    if network and (sizes := missing_sizes(network, shape, context)):
        missing.append(f"network shape: config.json does not give {', '.join(sizes)}")
    counted = count_parameters(network, shape, context) if network else None
    tensors = files.tensors
    if counted is not None and tensors and tensors.elements != counted:
        missing.append(
            f"number of parameters: the shape gives {counted}, but the files have {tensors.elements} elements "
            "(quantised weights, a vision tower or shared tensors can be the reason)"
        )
    elif tensors or counted:
        fields["parameters"] = tensors.elements if tensors else counted
    dtype = (tensors.dtype if tensors else None) or config.get("dtype", config.get("torch_dtype"))
    if dtype in DTYPES:
        fields["dtype"] = dtype
    if context:
        fields["context"] = context
    else:
        missing.append("context length: not in config.json")
    if known := shape.model_dump(exclude_none=True):
        fields["shape"] = known


def _with_tied_embeddings(shape: Shape, files: ModelFiles) -> Shape:
    """`shape` with `tie_word_embeddings`, if unknown, from the tensors: without an LM head, embeddings are tied."""
    if shape.tie_word_embeddings is not None or files.tensors is None:
        return shape
    return shape.model_copy(update={"tie_word_embeddings": "lm_head.weight" not in files.tensors.names})


def _add_tokens(fields: dict[str, Any], files: ModelFiles, missing: list[str]) -> None:
    config, generation = files.config, files.generation
    eos = dict.fromkeys((*_token_ids(generation.get("eos_token_id")), *_token_ids(config.get("eos_token_id"))))
    bos = next(_token_ids(config.get("bos_token_id")), None)
    if bos is not None or eos:
        fields["tokens"] = ({"bos": bos} if bos is not None else {}) | ({"eos": list(eos)} if eos else {})
    if not eos and fields["variant"] not in POOLING:
        missing.append("end-of-text token: neither in config.json nor in generation_config.json")


def _token_ids(value: Any) -> Iterator[int]:
    """The valid token ids in an id or a list of ids."""
    ids = value if isinstance(value, list) else [value]
    return iter([token for token in ids if isinstance(token, int) and not isinstance(token, bool) and token >= 0])
