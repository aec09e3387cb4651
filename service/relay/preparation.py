"""From a body of bytes to the `Call` that the relay runs: parsed, resolved to a model, rewritten for its engines."""

from collections.abc import Iterator
from functools import lru_cache, partial
from zlib import crc32

from service.auth.cache_salt import CacheSalts
from service.auth.keys import Caller
from service.auth.tenants import effective_priority
from service.catalog.catalog import Catalog
from service.checks.constraints import constraints_of
from service.config.settings import Settings
from service.fleet.fleet import Fleet
from service.observability.record import Record
from service.protocol.fields import check_opened, label
from service.protocol.generation import Endpoint, Kind, Requirements
from service.protocol.images import find_images, prompt_estimate
from service.protocol.parse_body import FieldPolicy, Parsed, engine_body, parse_body, with_salt
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import Body
from service.protocol.rewrites import cap_output, may_be_counted, rewrites, stop_conditions
from service.protocol.scoring import is_bare_ranking, without_documents
from service.protocol.sequences import estimate_output_tokens, too_many_sequences
from service.relay.call import BYTES_PER_TOKEN, Call, RequestTimeouts
from service.relay.fallbacks import Fallbacks
from service.routing.fallbacks import fallbacks, may_fall_back
from service.routing.prefix_key import key as prefix_key_of
from service.routing.resolve import Target, resolve
from service.transport.pool import post_request
from service.upstreams.upstreams import Upstreams


class Preparation:
    """Prepares requests for the models of one fleet. A reloaded fleet gets another, with the same `secret`."""

    def __init__(self, fleet: Fleet, catalog: Catalog, upstreams: Upstreams, settings: Settings, secret: bytes) -> None:
        self.fleet, self._catalog, self._upstreams = fleet, catalog, upstreams
        self._has_ledger = settings.usage_dir is not None
        self._cache_salts = CacheSalts(secret, fleet.prefix_cache == "shared")
        self._field_policy = FieldPolicy.of(fleet)
        self._restricted = lru_cache(fleet.restricted)  # for each set of models that keys are for
        self._by_id: dict[tuple[str, Kind, bool], Target] = {}  # as `resolve` found them, which goes by nothing else
        self._timeouts = {served.id: RequestTimeouts.of(served, settings) for served in fleet.served}

    def parse(self, endpoint: Endpoint, body: bytes) -> Parsed:
        """The body as a struct, with the fields that an engine may get; raises ApiError 400 for what is wrong."""
        return parse_body(endpoint.body, body, self._field_policy)

    def key(self, request: Body, tenant: str, options: RequestOptions) -> int | None:
        """The prefix key of a request to an alias that several models share; None for others, which need none."""
        if request.model not in self.fleet.shares:
            return None
        return prefix_key_of(request, tenant, options.session, options.conversation)

    def resolve(self, request: Body, requirements: Requirements, caller: Caller, key: int | None = None) -> Target:
        """The model for a caller's request, with the reason; raises the 404 or 400 if there is none.

        What has no prefix key goes where all such requests of its tenant go: vectors of two models do not compare.
        """
        asked = request.model, requirements.kind, requirements.vision
        if caller.models is None and (known := self._by_id.get(asked)):
            return known
        if key == 0:
            key = crc32(caller.tenant.id.encode())
        target = resolve(request.model, requirements, self._fleet_of(caller), self._catalog, key or 0)
        if caller.models is None and target.name == request.model:
            self._by_id[asked] = target
        return target

    def fallbacks(
        self, target: Target, request: Body, body: bytes, requirements: Requirements, options: RequestOptions,
        caller: Caller,
    ) -> Iterator[Target]:  # fmt: skip
        """The models that may answer in the target's place, in order; none where it may not be replaced."""
        if not may_fall_back(request.model, target, options.fallback):
            return iter(())
        images = find_images(request) if requirements.vision else ()
        prompt = prompt_estimate(request.prompt_bytes(len(body)), BYTES_PER_TOKEN, images)
        tokens = prompt + estimate_output_tokens(request, caller.tenant.max_output_tokens)
        return fallbacks(target, requirements, tokens, self._fleet_of(caller))

    def _fleet_of(self, caller: Caller) -> Fleet:
        return self.fleet if caller.models is None else self._restricted(caller.models)

    def call(
        self, endpoint: Endpoint, body: bytes, parsed: Parsed, options: RequestOptions, caller: Caller, record: Record,
        prefix_key: int | None = None,
    ) -> Call:  # fmt: skip
        """Resolves the model and rewrites the body for an engine of it; raises ApiError for what is wrong.

        `prefix_key` is that of the stored conversation which the request continues.
        """
        request = parsed.request
        requirements = endpoint.requirements(request)
        if prefix_key is None:
            prefix_key = self.key(request, caller.tenant.id, options)
        target = self.resolve(request, requirements, caller, prefix_key)
        call = self._call(endpoint, body, parsed, options, caller, record, requirements, target)
        call.prefix_key = prefix_key
        if target.fallback and may_fall_back(request.model, target, options.fallback):
            prepare = partial(self._call, endpoint, body, parsed, options, caller, record, requirements)
            others = self.fallbacks(target, request, body, requirements, options, caller)
            call.fall_back = Fallbacks(target, others, prepare).following
        return call

    def _call(
        self, endpoint: Endpoint, body: bytes, parsed: Parsed, options: RequestOptions, caller: Caller, record: Record,
        requirements: Requirements, target: Target,
    ) -> Call:  # fmt: skip
        """Rewrites the body for an engine of the target; raises ApiError for what is wrong."""
        request, accepted, ignored = parsed.request, parsed.body, parsed.ignored
        if (opened := caller.tenant.opened_fields) is not None:
            check_opened(request, (*opened, *self.fleet.extra_fields))
        served, dialect = target.served, endpoint.dialect
        adapter = target.adapter
        record.variant = target.variant if adapter else served.model.variant
        record.model, record.family = target.name, served.family
        record.route_reason, record.tools = target.reason, requirements.tools
        record.temperature = getattr(request, "temperature", None)
        sequences, bound = request.count_sequences(), served.engine_bound
        if bound is not None and sequences > bound:
            raise too_many_sequences(request, sequences, bound)
        stops = stop_conditions(request, served.model)
        adapted = endpoint.adapt(request, accepted, "reasoning_parser" in served.engine)
        ignored += adapted.ignored
        record.ignored_fields = tuple(label(endpoint.body, name) for name in ignored) if ignored else ()
        counted = (self._has_ledger or caller.tenant.has_budgets) and may_be_counted(request, dialect, sequences)
        rewritten = rewrites(request, target.name, served.model, dialect, stops, counted)
        if adapted.fields:
            rewritten = adapted.fields | rewritten
        most, context = caller.tenant.max_output_tokens, served.context
        capped: dict[str, object] = {}
        if most is not None or context is None or sequences * context > request.bounds.output_tokens:
            most, capped = cap_output(request, most, sequences, context)
        payload = engine_body(accepted, request, rewritten | capped if capped else rewritten, endpoint.streams)
        if hasattr(request, "cache_salt") and (salt := self._cache_salts.salt(caller.tenant.id, request.cache_salt)):
            payload = with_salt(payload, salt)
        timeouts = self._timeouts[served.id]
        own, total = options.timeout, timeouts.unstreamed.total
        images = find_images(request) if requirements.vision else ()
        prompt = prompt_estimate(request.prompt_bytes(len(body)), BYTES_PER_TOKEN, images)
        output = sequences * estimate_output_tokens(request, most if capped else None)
        return Call(  # by position: by name msgspec takes six times as long for so many
            request,
            endpoint.path,
            dialect,
            target,
            served,
            adapter,
            self._upstreams[served.id],
            caller.tenant,
            effective_priority(caller.tenant, options.priority),
            options,
            timeouts,
            record,
            body,
            ignored,
            post_request(endpoint.path, payload, record.request_id),
            without_documents if is_bare_ranking(request) else stops.redact_stop_reason(dialect),
            sequences,
            prompt,
            output,
            prompt + output,
            options.session or options.client_session or getattr(request, "prompt_cache_key", None),
            record.started + (own if own and own < total else total),
            timeouts.streamed if record.streamed else timeouts.unstreamed,
            images,
            constraints_of(request, payload),
            counted,
        )
