"""The gateway's part of evidence: which requests were at an engine when it failed, and how much evidence there is."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from service.engine import gateway_registry, process_files
from service.engine.collect import answers_kind
from service.engine.state import EngineState, Evidence
from service.observability.metrics import Metrics
from service.relay.request_shapes import MOST, Shape
from service.upstreams.upstreams import Upstreams


class EvidenceWitness:
    """Looks at the states of the engines that this installation runs, for evidence that is new since it was made.

    `shapes_at` returns the shapes of the requests at a replica.
    """

    def __init__(
        self, upstreams: Upstreams, shapes_at: Callable[[str], list[Shape]], metrics: Metrics, run_dir: Path
    ) -> None:
        self._upstreams, self._shapes_at, self._metrics, self._run_dir = upstreams, shapes_at, metrics, run_dir
        self._began = time.time()
        self._seen: dict[str, Evidence] = {}

    def look(self) -> None:
        """Answers what supervisors ask for, and counts what they have kept; called when a state may have changed."""
        for state in self._states():
            evidence = state.evidence
            if evidence is None or evidence.at < self._began or self._seen.get(state.replica) == evidence:
                continue
            self._seen[state.replica] = evidence
            if evidence.kept is None:
                self._answer(state, evidence)
            elif min(gateway_registry.registered(self._run_dir), default=os.getpid()) == os.getpid():
                counter = self._metrics.evidence_bundles if evidence.kept else self._metrics.evidence_lost
                counter.labels(state.model, evidence.cause).inc()

    def _states(self) -> Iterable[EngineState]:
        replicas = (replica for upstream in self._upstreams for replica in upstream.replicas)
        return [replica.state for replica in replicas if replica.state and not replica.remote]

    def _answer(self, state: EngineState, evidence: Evidence) -> None:
        shapes = self._shapes_at(state.replica)[:MOST]
        with suppress(OSError):  # a full disk: the bundle says that this gateway has told nothing
            content = {"evidence": evidence.id, "requests": shapes}
            process_files.write(self._run_dir, answers_kind(state.order), os.getpid(), content)
