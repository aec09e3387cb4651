"""All experiments for a GPU, with estimates of their duration, from catalogue and planner. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.gpu.schedule import Experiment, Setup, Subject
from service.catalog.catalog import Catalog
from service.catalog.engine_args import EngineValue
from service.catalog.model import Model
from service.conformance.cases import cases
from service.planner.gpus import Gpu
from service.planner.memory import Demand, fit
from service.planner.quantization import Form, why_not

REFERENCE = "llama-2-7b-chat"
BASE = "llama-2-7b"  # its sibling, for two variants of one family
TODAY = "llama-3.1-8b-instruct"
SHAPES = (
    REFERENCE, TODAY, "mixtral-8x7b-instruct-v0.1", "llama-2-13b-chat", "llama-2-70b-chat", "code-llama-34b-instruct",
    "mistral-7b-instruct-v0.3", "zephyr-7b-beta", "solar-10.7b-instruct-v1.0", "phi-3-mini-4k-instruct",
    "phi-3-mini-128k-instruct", "falcon-7b-instruct",
)  # fmt: skip
SLOW = {"vllm-bench": 0.5}  # minutes in the rehearsal: what takes longer there than the rest
FORMS: tuple[Form, ...] = ("bf16", "fp8")
SHORTEST = 2048  # tokens: a model that holds no request of so many is not worth its start
SPLIT = 0.46  # of the card for each of two engines
START = 1.3  # minutes from nothing to a first token, estimated, without the weights
WEIGHT_RATE = 60e9  # bytes of weights that are made up in a minute, estimated

# The measures that need nothing but a ready engine: estimated minutes, value for the reference, for others.
COMMON = (
    ("start", 0.2, 20.0, 20.0),
    ("short", 2.5, 125.0, 10.0),
    ("bounds", 0.7, 30.0, 5.0),
    ("shared", 3.0, 30.0, 2.0),
    ("long", 3.0, 30.0, 2.0),
)
OF_REFERENCE = (("batching", 0.7, 15.0), ("prefix", 0.4, 10.0), ("chunked", 0.6, 8.0), ("vllm-bench", 1.5, 15.0),
                ("restart", 2.0, 25.0))  # fmt: skip


@dataclass(frozen=True)
class Unfit:
    """A model that cannot be measured on this card, and why."""

    model: str
    why: str


def on_card(catalog: Catalog, gpu: Gpu) -> tuple[list[Experiment], list[Unfit]]:
    """All experiments for one card of this kind, and the shapes that do not fit it."""
    found: list[Experiment] = []
    unfit: list[Unfit] = []
    for name in SHAPES:
        subject = _subject(catalog.models[name], gpu)
        if isinstance(subject, Unfit):
            unfit.append(subject)
            continue
        setup = Setup(name, (subject,), _minutes(subject))
        is_reference = name == REFERENCE
        found += [Experiment(setup, measure, minutes, reference if is_reference else other)
                  for measure, minutes, reference, other in COMMON]  # fmt: skip
        if is_reference:
            found += [Experiment(setup, *row) for row in OF_REFERENCE]
            found += _variations(subject, gpu)
            found += _together(subject, catalog.models[BASE])
    return found, unfit


def scaled_down(catalog: Catalog) -> list[Experiment]:
    """The rehearsal: every kind of measure on two small networks, in as few starts as will do."""
    reduced = {case.name: case.scaled_down() for case in cases(catalog, [REFERENCE, "phi-3-mini-4k-instruct"])[0]}
    first, second = (Subject(model, "bf16", 512) for model in reduced.values())
    engine: dict[str, EngineValue] = {"enforce_eager": True, "max_num_seqs": 8}
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
           "TORCHDYNAMO_DISABLE": "1"}  # fmt: skip
    name, off = first.model.id, {"enable_prefix_caching": False}
    setups = {
        "both": Setup(f"{name}+split", (first, second), 0.9, engine, env),
        "sleep": Setup(f"{name}+sleep", (first,), 0.3, engine | {"enable_sleep_mode": True}, env),
        "plain": Setup(f"{name}+no-prefix-cache", (first,), 0.6, engine | off, env),
    }
    rows = (
        ("both", "start", 100.0), ("both", "short", 90.0), ("both", "long", 80.0), ("both", "shared", 80.0),
        ("both", "batching", 80.0), ("both", "bounds", 80.0), ("both", "prefix", 80.0), ("both", "chunked", 80.0),
        ("both", "split", 80.0), ("sleep", "sleep", 30.0), ("both", "vllm-bench", 60.0), ("plain", "prefix", 2.0),
        ("plain", "start", 2.0), ("plain", "restart", 2.0),
    )  # fmt: skip
    return [Experiment(setups[of], measure, SLOW.get(measure, 0.05), value) for of, measure, value in rows]


def _subject(model: Model, gpu: Gpu) -> Subject | Unfit:
    """The model in the first form that fits the card, with as much of its context as fits."""
    if model.network is None or model.network.refused:
        return Unfit(model.id, model.network.refused or "" if model.network else "its architecture is not known")
    why = "its sizes are not known"
    for form in FORMS:
        if problem := why_not(form, gpu):
            why = problem
            continue
        context = model.context or 0
        while context >= min(SHORTEST, model.context or SHORTEST):
            found = fit(model, gpu, form, 1, Demand(context))
            if found and not found.why:
                return Subject(model, form, context)
            why = (found.why if found else None) or why
            context //= 2
    return Unfit(model.id, why)


def _variations(subject: Subject, gpu: Gpu) -> Iterator[Experiment]:
    """The reference once more, each time with one thing changed."""
    name, minutes = subject.model.id, _minutes(subject)
    off = Setup(f"{name}+no-prefix-cache", (subject,), minutes, {"enable_prefix_caching": False})
    yield Experiment(off, "prefix", 0.4, 12.0)
    whole = Setup(f"{name}+no-chunked-prefill", (subject,), minutes, {"enable_chunked_prefill": False})
    yield Experiment(whole, "chunked", 0.5, 9.0)
    if subject.form == "bf16" and not why_not("fp8", gpu):
        fp8 = Subject(subject.model, "fp8", subject.context)
        setup = Setup(f"{name}+fp8", (fp8,), minutes)
        for measure, cost, value in (("start", 0.2, 10.0), ("short", 2.5, 20.0), ("bounds", 0.7, 10.0)):
            yield Experiment(setup, measure, cost, value)


def _together(subject: Subject, sibling: Model) -> Iterator[Experiment]:
    """Two variants of one family on one card: with half of it each, and taking turns."""
    name, other = subject.model.id, Subject(sibling, subject.form, subject.context)
    minutes = _minutes(subject) + _minutes(other)
    both = Setup(f"{name}+split", (subject, other), minutes, {"gpu_memory_utilization": SPLIT}, retries=1)
    yield Experiment(both, "split", 0.8, 25.0)
    turns = Setup(f"{name}+sleep", (subject, other), minutes, {"enable_sleep_mode": True}, retries=6)
    yield Experiment(turns, "sleep", 1.0, 25.0)


def _minutes(subject: Subject) -> float:
    return START + (subject.model.parameters or 0) * (1 if subject.form == "fp8" else 2) / WEIGHT_RATE
