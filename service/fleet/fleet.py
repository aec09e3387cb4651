"""Loads the fleet file: which models this installation serves, how, and under which names."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.auth.sign_on import Access, SignOn
from service.auth.tenants import DEFAULT_TENANT, Tenant
from service.catalog.catalog import Catalog
from service.catalog.names import Variant
from service.config.strict_yaml import ConfigError, Document
from service.fleet.alternatives import Weights, named, shared_aliases, with_fallbacks
from service.fleet.cors import Cors
from service.fleet.entries import served_model
from service.fleet.entry_errors import EntryError
from service.fleet.guardrail import Guardrail
from service.fleet.guardrails import read_guardrails
from service.fleet.image_bounds import ImageBounds
from service.fleet.request_bounds import RequestBounds
from service.fleet.schema import RESERVED, Auth, FleetFile, PrefixCache
from service.fleet.served_model import ServedModel
from service.fleet.shares import read_shares
from service.observability.prompt_log import PATTERNS


@dataclass(frozen=True)
class Fleet:
    """The served models in the file's order, and the names that requests may use for them.

    `aliases` maps a name to the id of a model or adapter. `shares` has the weights of the models under each alias that
    several share; in `aliases` stands the first that gets requests. `defaults` maps a variant to the id of the model
    that serves it. `startup` is *auto*, *parallel* or *sequential*. `extra_fields` are request fields that pass to vLLM
    unchecked; those that nobody knows are ignored, or refused if `refuse_unknown_fields`. `request_bounds` is how much
    one request may ask for, and `images` bounds those of one. `auth` is *none* where the service may be open to
    everyone. `sign_on` says whose tokens are accepted, None if nobody's. `guardrails` are the steps that judge texts.
    `cors` says which pages of other sites may use it from a browser.
    `redact` are the regular expressions of what is left out of logged prompts.
    `prefix_cache` says whether each tenant has its own part of the engines' prefix caches, or all share them.
    `allowed` are the ids that a name may lead to; None is all of them.
    """

    served: tuple[ServedModel, ...]
    aliases: dict[str, str]
    defaults: dict[Variant, str]
    startup: str
    extra_fields: frozenset[str]
    refuse_unknown_fields: bool = False
    tenants: dict[str, Tenant] = field(default_factory=dict)
    request_bounds: RequestBounds = RequestBounds()
    images: ImageBounds = ImageBounds()
    guardrails: dict[str, Guardrail] = field(default_factory=dict)
    auth: Auth = "keys"
    sign_on: SignOn | None = None
    cors: Cors = Cors()
    redact: tuple[str, ...] = PATTERNS
    prefix_cache: PrefixCache = "tenant"
    shares: dict[str, Weights] = field(default_factory=dict)
    allowed: frozenset[str] | None = None

    def __getitem__(self, model_id: str) -> ServedModel:
        for served in self.served:
            if served.id == model_id:
                return served
        raise KeyError(model_id)

    def serving(self, id: str) -> ServedModel:
        """The model that serves this id: itself, or an adapter on it; raises KeyError where there is none."""
        for served in self.served:
            if served.id == id or any(adapter.id == id for adapter in served.adapters):
                return served
        raise KeyError(id)

    def weight(self, id: str) -> int | None:
        """The weight of a model or adapter in the file, None where it has none."""
        served = self.serving(id)
        return next((one.weight for one in served.adapters if one.id == id), served.weight)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all models and adapters."""
        return frozenset(id for model in self.served for id in (model.id, *(one.id for one in model.adapters)))

    @property
    def names(self) -> frozenset[str]:
        """The ids of all models and adapters, and their aliases."""
        return self.ids.union(self.aliases)

    def ids_of(self, names: Iterable[str]) -> frozenset[str]:
        """The ids of models and adapters that are meant by these ids and aliases."""
        return frozenset(id for name in names for id in self.shares.get(name, (self.aliases.get(name, name),)))

    def restricted(self, names: Iterable[str]) -> "Fleet":
        """The fleet of a caller who may use what these ids and aliases mean, and hears of nothing else.

        A model that only an adapter needs stays, without being allowed itself.
        """
        ids = self.ids_of(names)
        reduced = (
            replace(model, adapters=tuple(adapter for adapter in model.adapters if adapter.id in ids))
            for model in self.served
        )
        shares = {
            alias: left
            for alias, weights in self.shares.items()
            if (left := {id: weight for id, weight in weights.items() if weight and id in ids})
        }
        own = {alias: target for alias, target in self.aliases.items() if target in ids and alias not in self.shares}
        return replace(
            self,
            served=tuple(model for model in reduced if model.id in ids or model.adapters),
            aliases=own | {alias: next(iter(weights)) for alias, weights in shares.items()},
            shares=shares,
            defaults={variant: target for variant, target in self.defaults.items() if target in ids},
            allowed=ids,
        )

    def replicas(self) -> Iterator[tuple[ServedModel, int]]:
        """Every replica that Roundhouse runs, as (served model, number from 0), in startup order."""
        return (
            (served, number) for served in self.served if not served.addresses for number in range(served.max_replicas)
        )


def load(
    path: Path, catalog: Catalog, store: Path | None = None, *, may_log_prompts: bool = True, here: str | None = None
) -> Fleet:
    """Reads the fleet file; raises ConfigError with every mistake in it.

    `here` is the id of a model whose engine is started on this machine, although it has `addresses` for gateways.
    `may_log_prompts` says whether there is a file for the prompts of tenants that want them logged.
    `store` is the folder of pulled weights; without one, vLLM downloads the weights of every hub model itself.
    """
    document = Document(path)
    file = document.read(FleetFile)
    problems: list[str] = []
    served: dict[int, ServedModel] = {}
    for index, entry in enumerate(file.models):
        try:
            model = served_model(entry, file, catalog, path.parent, store)
            if model.id == here and entry.addresses:
                model = served_model(entry.model_copy(update={"addresses": ()}), file, catalog, path.parent, store)
            served[index] = model
        except EntryError as error:
            problems.append(document.problem(("models", index, error.key, *error.within), error.message))
    problems += [
        document.problem(("tenants", name, "log_prompts"), "needs ROUNDHOUSE_PROMPT_LOG, the file that they go to")
        for name, tenant in file.tenants.items()
        if tenant.log_prompts and not may_log_prompts
    ]
    shares = shared_aliases(document, served, problems)
    aliases = _aliases(document, file, served, shares, problems)
    guardrails, served = read_guardrails(document, file, served, problems)
    served = read_shares(document, file, served, problems)
    served = with_fallbacks(document, served, problems)
    ids = {entry.one.id for entry in named(served)}
    for variant, target in file.defaults.items():
        if target not in ids:
            problems.append(document.problem(("defaults", variant), f"'{target}' is not the id of a served model"))
    for index, name in enumerate(file.optional_flags):
        if not problems and not any(name in model.engine for model in served.values()):
            problems.append(
                document.problem(("optional_flags", index), f"'{name}' is not an 'engine' setting of any model")
            )
    problems += _sign_on_problems(document, file)
    if problems:
        raise ConfigError(problems)
    return Fleet(
        served=tuple(served.values()),
        aliases=aliases,
        defaults=dict(file.defaults),
        startup=file.startup,
        extra_fields=frozenset(file.extra_fields),
        refuse_unknown_fields=file.unknown_fields == "refuse",
        tenants={name: Tenant(id=name, **entry.model_dump()) for name, entry in file.tenants.items()},
        request_bounds=file.request_bounds,
        images=file.images,
        guardrails=guardrails,
        auth=file.auth,
        sign_on=file.sign_on,
        cors=file.cors,
        redact=file.redact,
        prefix_cache=file.prefix_cache,
        shares=shares,
    )


def _sign_on_problems(document: Document, file: FleetFile) -> Iterator[str]:
    """A tenant that is mistyped would have no limits, so each that users are given is one of the file."""
    if file.sign_on is None:
        return
    if file.auth == "none":
        yield document.problem(("sign_on",), "with 'auth: none' nobody is asked for a token: remove one of the two")
    known = {DEFAULT_TENANT, *file.tenants}
    granted: dict[tuple[str, ...], Access] = {
        ("sign_on", "tenants", group): access for group, access in file.sign_on.tenants.items()
    }
    if file.sign_on.default_tenant:
        granted[("sign_on", "default_tenant")] = file.sign_on.default_tenant
    for at, access in granted.items():
        if access.tenant not in known:
            yield document.problem(at, f"there is no tenant '{access.tenant}' in 'tenants'")


def _aliases(
    document: Document, file: FleetFile, served: dict[int, ServedModel], shares: dict[str, Weights], problems: list[str]
) -> dict[str, str]:
    """Every alias and its target; of those in `shares` the first that gets requests.

    Appends to `problems` where a name is not unique or a target does not exist.
    """
    taken: set[str] = set(RESERVED)
    aliases: dict[str, str] = {}

    def claim(name: str, key: tuple[str | int, ...]) -> None:
        reserved = name in RESERVED or name.startswith("task:")
        if name in taken or reserved:
            why = "is reserved for routing" if reserved else "is already the id or alias of another model"
            if key[-1] == "aliases" and name in aliases:
                why += "; models that share an alias each have a 'weight'"
            problems.append(document.problem(key, f"'{name}' {why}"))
        taken.add(name)

    for entry in named(served):
        claim(entry.one.id, (*entry.at, "id"))
    for entry in named(served):
        for alias in entry.one.aliases:
            if alias not in shares:
                claim(alias, (*entry.at, "aliases"))
                aliases[alias] = entry.one.id
    for alias, weights in shares.items():
        claim(alias, (*next(entry.at for entry in named(served) if entry.one.id in weights), "aliases"))
        aliases[alias] = next((id for id, weight in weights.items() if weight), next(iter(weights)))
    targets = {entry.one.id for entry in named(served)}
    for alias, target in file.aliases.items():
        claim(alias, ("aliases", alias))
        aliases[alias] = target
        if target not in targets:
            problems.append(document.problem(("aliases", alias), f"'{target}' is not the id of a served model"))
    return aliases
