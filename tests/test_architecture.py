"""The rules of the house, read from its source: who may import whom, and what nobody does."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.each import each
from tests.support.fleets import ROOT

SERVICE = ROOT / "service"
# The import order, as docs/architecture.md opens with it: a module imports only from packages to the left of its own.
# Packages between two dots stand on one floor and import nothing of each other.
ORDER = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("```")[1]
FLOORS = [[name.strip() for name in floor.split(",")] for floor in ORDER.replace("\n", " ").split("·")]
PACKAGES = [name for floor in FLOORS for name in floor]
FILES = sorted(SERVICE.rglob("*.py"))
LONGEST = 300  # lines
MUTABLE = ("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict", "ContextVar")
MUTATORS = {
    "append", "extend", "insert", "remove", "pop", "popitem", "clear", "update", "setdefault", "add", "discard",
    "sort", "reverse", "appendleft", "popleft",
}  # fmt: skip

every_file = each("path", FILES, ids=lambda path: name_of(path))


def name_of(path: Path) -> str:
    """`service/engine/argv.py` → `service.engine.argv`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# Run as processes of their own and imported by nobody, so what they import stays out of ours.
PROGRAMS = ("service.conformance.reference_model", "service.evaluation.local_embeddings")
MODULES = {name_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def ours(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] == "service"}


def package(module: str) -> str:
    return module.split(".")[1]


def test_every_package_is_in_the_order() -> None:
    assert {package(name) for name in MODULES if name != "service"} == set(PACKAGES)


@every_file
def test_a_module_imports_only_from_packages_before_its_own(path: Path) -> None:
    if name_of(path) == "service":
        assert not ours(path)
        return
    here = package(name_of(path))
    floor = next(number for number, names in enumerate(FLOORS) if here in names)
    allowed = {here, *(name for names in FLOORS[:floor] for name in names)}
    assert not [name for name in ours(path) if package(name) not in allowed]


def test_no_folder_imports_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way, module))
        if module not in done:
            for name in ours(MODULES[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@every_file
def test_an_engine_is_a_process_and_never_an_import(path: Path) -> None:
    if name_of(path) in PROGRAMS:
        assert not [other for other in FILES if name_of(path) in ours(other)]
        return
    assert not {"vllm", "torch", "transformers"} & {name.split(".")[0] for name in imported(path)}


@every_file
def test_there_is_no_global_state(path: Path) -> None:
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]
    for node in tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and is_mutable(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            assert all(name.strip("_").isupper() or name == "__all__" for name in names), names


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        function = value.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        return name in MUTABLE
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


@every_file
def test_constants_stay_as_they_are(path: Path) -> None:
    for node in ast.walk(tree(path)):
        changed: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            changed = [target.value for target in node.targets if isinstance(target, ast.Subscript)]
        elif isinstance(node, ast.AugAssign):
            changed = [node.target.value if isinstance(node.target, ast.Subscript) else node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            changed = [node.func.value]
        names = [one.id for one in changed if isinstance(one, ast.Name)]
        assert not [name for name in names if name.isupper()], f"line {getattr(node, 'lineno', 0)}"


@every_file
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@every_file
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@every_file
def test_the_middleware_is_plain(path: Path) -> None:
    names = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    assert "BaseHTTPMiddleware" not in names
    assert not [name for name in imported(path) if name.startswith("starlette.middleware")]


@every_file
def test_only_the_outermost_layer_catches_everything(path: Path) -> None:
    broad = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler) and is_broad(node)]
    # An exchange raises it again, where somebody waits for it.
    allowed = ("service.gateway.middleware", "service.transport.exchange", "service.observability.background")
    assert not broad or name_of(path) in allowed
    assert len(broad) <= 1


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )


STARTERS = ("create_task", "ensure_future", "run_coroutine_threadsafe", "Thread", "start_new_thread", "submit")
# Where something runs beside its caller without `keep_running`, how often, and why nothing is lost when it fails.
FINITE = {
    "service.server.connection_task": (1, "the requests of a connection; their middleware catches everything"),
    "service.server.asgi": (1, "waits for one request's client to leave"),
    "service.server.shared_listener": (1, "connects what was accepted; where that fails it counts no more"),
    "service.upstreams.upstreams": (1, "each of its loops calls `keep_running` itself"),
    "service.engine.supervisor": (2, "watches one engine, or runs one: whoever waits takes the result"),
    "service.engine.evidence": (1, "waits for a program's end; whatever that program does is ignored"),
    "service.engine.standalone": (1, "waits for a signal"),
    "service.engine.process": (
        2,
        "one waits for an engine's end, and resolves its futures in any case; one is awaited",
    ),
    "service.observability.log_writer": (1, "the next line starts it again"),
    "service.observability.span_sender": (1, "the next span starts it again"),
    "service.checks.checks": (1, "one job; whoever waits takes its result, and a client that leaves does not end it"),
    "service.admission.shared_budgets": (1, "one question to Redis, with a timeout; its result is taken or given back"),
    "service.conformance.run": (1, "a command's child process"),
}


@every_file
def test_what_runs_for_ever_has_an_owner(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and called(node) in STARTERS]
    unowned = [
        call.lineno for call in calls
        if not (isinstance(call.args[0] if call.args else None, ast.Call) and called(call.args[0]) == "keep_running")
    ]  # fmt: skip
    assert len(unowned) == FINITE.get(name_of(path), (0, ""))[0], f"lines {unowned}: use keep_running"


def called(call: ast.expr) -> str:
    """The name of the function in a call, without what it is an attribute of."""
    function = call.func if isinstance(call, ast.Call) else call
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
