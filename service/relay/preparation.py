"""From a body of bytes to the `Call` that the relay runs: parsed, resolved to a model, rewritten for its engines."""

from functools import lru_cache

from service.auth.cache_salt import CacheSalts
from service.auth.keys import Caller
from service.auth.tenants import effective_priority
from service.catalog.catalog import Catalog
from service.checks.constraints import constraints_of
from service.config.settings import Settings
from service.fleet.fleet import Fleet
from service.observability.record import Record
from service.protocol.adaptations import adapt
from service.protocol.fields import check_opened, label
from service.protocol.generation import Endpoint, Requirements
from service.protocol.images import find_images
from service.protocol.parse_body import FieldPolicy, Parsed, engine_body, parse_body, with_salt
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import Body
from service.protocol.rewrites import cap_output, rewrites, stop_conditions
from service.protocol.scoring import is_bare_ranking, without_documents
from service.protocol.sequences import count_sequences, too_many_sequences
from service.relay.call import Call, RequestTimeouts
from service.routing.resolve import Target, resolve
from service.transport.pool import post_request
from service.upstreams.upstreams import Upstreams


class Preparation:
    """Prepares requests for the models of one fleet. A reloaded fleet gets another, with the same `secret`."""

    def __init__(self, fleet: Fleet, catalog: Catalog, upstreams: Upstreams, settings: Settings, secret: bytes) -> None:
        self.fleet, self._catalog, self._upstreams = fleet, catalog, upstreams
        self._cache_salts = CacheSalts(secret, fleet.prefix_cache == "shared")
        self._field_policy = FieldPolicy.of(fleet)
        self._restricted = lru_cache(fleet.restricted)  # for each set of models that keys are for
        self._timeouts = {served.id: RequestTimeouts.of(served, settings) for served in fleet.served}

    def parse(self, endpoint: Endpoint, body: bytes) -> Parsed:
        """The body as a struct, with the fields that an engine may get; raises ApiError 400 for what is wrong."""
        return parse_body(endpoint.body, body, self._field_policy)

    def resolve(self, request: Body, requirements: Requirements, models: frozenset[str] | None) -> Target:
        """The model for a request that may use `models`, with the reason; raises the 404 or 400 if there is none."""
        fleet = self.fleet if models is None else self._restricted(models)
        return resolve(request.model, requirements, fleet, self._catalog)

    def call(
        self, endpoint: Endpoint, body: bytes, parsed: Parsed, options: RequestOptions, caller: Caller, record: Record
    ) -> Call:
        """Resolves the model and rewrites the body for an engine of it; raises ApiError for what is wrong."""
        request, accepted, ignored = parsed
        requirements = endpoint.requirements(request)
        target = self.resolve(request, requirements, caller.models)
        if caller.tenant.allow_fields is not None:
            check_opened(request, caller.tenant.allow_fields)
        served, dialect = target.served, endpoint.dialect
        record.model, record.variant, record.family = target.name, served.variant, served.family
        record.route_reason = target.reason
        sequences, bound = count_sequences(request), served.engine_bound
        if bound is not None and sequences > bound:
            raise too_many_sequences(request, sequences, bound)
        stops = stop_conditions(request, served.model)
        adapted = adapt(request, accepted, "reasoning_parser" in served.engine)
        ignored += adapted.ignored
        record.ignored_fields = tuple(label(endpoint.body, name) for name in ignored)
        rewritten = adapted.fields | rewrites(request, target.name, served.model, dialect, stops)
        most = caller.tenant.max_output_tokens
        capped = {} if most is None else cap_output(request, most)
        payload = engine_body(accepted, request, rewritten | capped, endpoint.streams)
        if hasattr(request, "cache_salt") and (salt := self._cache_salts.salt(caller.tenant.id, request.cache_salt)):
            payload = with_salt(payload, salt)
        timeouts = self._timeouts[served.id]
        return Call(
            request=request,
            path=endpoint.path,
            dialect=dialect,
            target=target,
            upstream=self._upstreams[served.id],
            tenant=caller.tenant,
            priority=effective_priority(caller.tenant, options.priority),
            options=options,
            timeouts=timeouts,
            record=record,
            body=body,
            ignored_fields=ignored,
            upstream_request=post_request(endpoint.path, payload, record.request_id),
            redact=without_documents if is_bare_ranking(request) else stops.redact_stop_reason(dialect),
            sequences=sequences,
            deadline=record.started + min(options.timeout or timeouts.unstreamed.total, timeouts.unstreamed.total),
            output_cap=most if capped else None,
            images=find_images(request) if requirements.vision else (),
            constraints=constraints_of(request, payload),
        )
