"""The description of the API as OpenAPI 3.1, made from what requests are checked with. Pure.

docs/openapi.json is it with the default bounds of requests; `python -m service.gateway.openapi` writes it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from service.config.release import release
from service.fleet.request_bounds import RequestBounds
from service.gateway.console.page import CLIENT_SETTINGS, FILE, LOAD, PATH, SIGN_IN, STATE
from service.gateway.openapi_schemas import (
    ANSWERS,
    ANY_OBJECT,
    FAILURES,
    INPUT_ITEMS_QUERY,
    JSON_TYPE,
    MODEL_LIST,
    OBJECTS,
    ONE_MODEL,
    REQUEST_HEADERS,
    RESPONSE,
    RESPONSE_HEADERS,
    SCHEMAS,
    STREAM_TYPE,
    STRING,
    SUMMARIES,
    USAGE_QUERY,
    USED,
    Schema,
    an_object,
    constant,
)
from service.protocol.bounded import bounded
from service.protocol.fields import ACTED
from service.protocol.generation import GENERATION, MODERATIONS, PATHS, Endpoint
from service.protocol.json_schema import REFERENCE, schemas_of
from service.protocol.scoring import SIDES, ScoreRequest
from service.protocol.tokenization import TokenizeRequest

VERSION = "3.1.0"
ABOUT = (
    "Self-hosted models behind one address, with the APIs of OpenAI and Anthropic. What becomes of each field of a "
    "request is in docs/compatibility.md, every error in docs/errors.md."
)
KEYED: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def describe(bounds: RequestBounds) -> Schema:
    """The whole description, as JSON; `bounds` is how much one request may ask for."""
    return {
        "openapi": VERSION,
        "info": {"title": "Roundhouse", "version": release(), "description": ABOUT},
        "security": KEYED,
        "paths": dict(_paths()),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "headers": {
                name: {"description": text, "schema": STRING} for name, text in RESPONSE_HEADERS.items()
            },
            "parameters": {
                name: {"name": name, "in": "header", "description": text, "schema": schema}
                for name, (text, schema) in REQUEST_HEADERS.items()
            },
            "responses": {name: _failure(names) for name, names in FAILURES.items()},
            "schemas": {**SCHEMAS, **_bodies(bounds)},
        },
    }  # fmt: skip


def _bodies(bounds: RequestBounds) -> dict[str, Schema]:
    schemas = schemas_of({bounded(one.body, bounds): ACTED[one.body] for one in (*GENERATION, MODERATIONS)})
    schemas[ScoreRequest.__name__]["anyOf"] = [{"required": list(sides)} for sides in SIDES]
    schemas[TokenizeRequest.__name__]["anyOf"] = [{"required": [name]} for name in ("prompt", "messages")]
    return schemas


def _paths() -> Iterator[tuple[str, Schema]]:
    for path, endpoint in PATHS.items():
        yield path, {"post": _generation(path, endpoint)}
    route = an_object(endpoint=constant(*PATHS), model=STRING)
    route["required"] = ["model"]
    answer = an_object(requested=STRING, endpoint=STRING, model=STRING, variant=STRING, route_reason=STRING)
    deleted = an_object(id=STRING, object=constant("response"), deleted={"type": "boolean"})
    items = an_object(object=constant("list"), data=OBJECTS, has_more={"type": "boolean"})
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in INPUT_ITEMS_QUERY]
    yield "/v1/route", {"post": {**_operation("Where a request would go, without running it", answer), **_takes(route)}}
    judged = an_object(id=STRING, model=STRING, results=OBJECTS)
    taken = _takes({"$ref": REFERENCE + MODERATIONS.body.__name__})
    yield MODERATIONS.path, {"post": {**_operation("Whether texts are harmful, as a guard judges", judged), **taken}}
    used = {**_operation("What was used", USED), "parameters": [_query(name) for name in USAGE_QUERY]}
    yield "/v1/usage", {"get": used}
    yield "/v1/models", {"get": _operation("What is served", MODEL_LIST, errors="EitherError")}
    yield "/v1/models/{id}", {
        "parameters": [ID], "get": _operation("One of the models", ONE_MODEL, errors="EitherError"),
    }  # fmt: skip
    yield (
        "/v1/responses/{id}",
        {
            "parameters": [ID],
            "get": _operation("A stored response", RESPONSE),
            "delete": _operation("Delete a stored response", deleted),
        },
    )
    yield "/v1/responses/{id}/input_items", {
        "parameters": [ID], "get": {**_operation("The input of a stored response", items), "parameters": query},
    }  # fmt: skip
    cancel = _operation("Cancel a response in the background", RESPONSE)
    yield "/v1/responses/{id}/cancel", {"parameters": [ID], "post": cancel}
    yield "/metrics", {"get": _operation("The metrics, for Prometheus", STRING, kind="text/plain")}
    yield "/metrics/targets", {"get": _operation("The engines' pages, for Prometheus to find", OBJECTS)}
    replica = {"name": "replica", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    page = _operation("An engine's own metrics", STRING, kind="text/plain")
    yield "/metrics/engines/{replica}", {"parameters": [replica], "get": page}
    for path in ("/health", "/ping"):
        yield path, {"get": {**_operation("Whether the gateway is ready", None), "security": []}}
    yield "/version", {"get": _operation("What runs here", an_object(version=STRING, engines=ANY_OBJECT))}
    yield "/", {"get": _operation("Whether anything is here", an_object(service=STRING, models=STRING))}
    yield from _console()
    yield "/openapi.json", {"get": _operation("This description", an_object(openapi=STRING, paths=ANY_OBJECT))}


def _console() -> Iterator[tuple[str, Schema]]:
    """The console's page, which needs no key, and what it asks for."""
    page = {**_operation("The console: a web page", STRING, kind="text/html"), "security": []}
    yield PATH, {"get": page}
    yield f"{PATH}/", {"get": {"summary": "The same", "security": [], "responses": {"307": {"description": PATH}}}}
    file = {**_operation("A file of the console", STRING, kind="text/javascript"), "security": []}
    yield FILE, {"parameters": [{**ID, "name": "file"}], "get": file}
    state = an_object(version=STRING, process=ANY_OBJECT, caller=ANY_OBJECT, models=OBJECTS, waiting=OBJECTS)
    yield STATE, {"get": _operation("What is served, what waits and what failed, for the console", state)}
    load = an_object(since=STRING, models=ANY_OBJECT, replicas=ANY_OBJECT)
    recent = _operation("Load and latency of the last minutes, for the console", load)
    yield LOAD, {"get": {**recent, "parameters": [_query("since")]}}
    client = _operation("Where users of the console sign in, if they can", ANY_OBJECT)
    yield SIGN_IN, {"get": {**client, "security": []}}
    clients = _operation("The settings of client programs", an_object(address=STRING, key=STRING, clients=OBJECTS))
    yield CLIENT_SETTINGS, {"get": {**clients, "parameters": [_query("model")]}}


def _generation(path: str, endpoint: Endpoint) -> Schema:
    errors = "AnthropicError" if endpoint.body.anthropic else "Error"
    operation = _operation(SUMMARIES[endpoint.path], ANSWERS[endpoint.path], errors=errors)
    success = operation["responses"]["200"]
    success["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in RESPONSE_HEADERS}
    if endpoint.streams:
        success["content"][STREAM_TYPE] = {"schema": STRING}
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in REQUEST_HEADERS]
    return {"parameters": parameters, **_takes({"$ref": REFERENCE + endpoint.body.__name__}), **operation}


def _query(name: str) -> Schema:
    return {"name": name, "in": "query", "schema": STRING}


def _takes(schema: Schema) -> Schema:
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}}}}


def _failure(names: tuple[str, ...]) -> Schema:
    schemas = [{"$ref": REFERENCE + name} for name in names]
    return {
        "description": "An error; docs/errors.md lists them",
        "headers": {"x-request-id": {"$ref": "#/components/headers/x-request-id"}},
        "content": {JSON_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}},
    }


def _operation(summary: str, answer: Schema | None, *, kind: str = JSON_TYPE, errors: str = "Error") -> Schema:
    """An operation that answers 200 with this body, or none; or an error, which is one of FAILURES."""
    failure = {"$ref": f"#/components/responses/{errors}"}
    success: Schema = {"description": summary}
    if answer is not None:
        success["content"] = {kind: {"schema": answer}}
    return {"summary": summary, "responses": {"200": success, "4XX": failure, "5XX": failure}}


def operations(description: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Every path of a description, with each of its methods in capitals."""
    paths: Mapping[str, Mapping[str, object]] = description["paths"]
    return {(path, name.upper()) for path, item in paths.items() for name in item if name != "parameters"}


if __name__ == "__main__":
    print(json.dumps(describe(RequestBounds()), indent=1, ensure_ascii=False))
