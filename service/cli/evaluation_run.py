"""An evaluation's requests in their order: answers of both models, embeddings of texts, verdicts of the judge."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.evaluation_files import Replies
from service.cli.evaluation_requests import Client, Refusals, Target, refuse_unknown
from service.evaluation import calls
from service.evaluation.calls import Call, Reply, Settings
from service.evaluation.cases import Case
from service.evaluation.judging import Word, verdict_of
from service.evaluation.results import Result, score, texts
from service.evaluation.scoring import Vector
from service.evaluation.statistics import Metric

PROGRAM = "service.evaluation.local_embeddings"
Answered = list[tuple[Case, Reply, Reply]]
Missing = list[tuple[Case, str]]


@dataclass(frozen=True)
class Plan:
    """What is to be compared. `local` is the folder of the embedding model, where it is not a served one."""

    cases: list[Case]
    new: str
    against: str
    settings: Settings
    embedding_model: str | None
    judge: str | None
    local: Path | None

    def answers(self, case: Case) -> tuple[Call, Call]:
        """The requests for both answers to a case."""
        return calls.answer_call(case, self.new, self.settings), calls.answer_call(case, self.against, self.settings)


@dataclass
class Outcome:
    """The results, the cases without one and why, and the replies that the results are made of.

    `unmeasured` says of a metric why the first case that lacks it does.
    """

    results: list[Result] = field(default_factory=list)
    missing: Missing = field(default_factory=list)
    unmeasured: dict[Metric, str] = field(default_factory=dict)
    used: dict[str, Reply] = field(default_factory=dict)


async def run(plan: Plan, target: Target, replies: Replies) -> Outcome:
    """Asks for what is missing among the replies, and scores the cases."""
    async with Client(target) as client:
        await _check(plan, client)
        with _progress() as progress:
            return await _Evaluation(plan, client, replies, progress).run()


class _Evaluation:
    """One run of a plan, through an open client."""

    def __init__(self, plan: Plan, client: Client, replies: Replies, progress: Progress) -> None:
        self._plan, self._client, self._replies, self._progress = plan, client, replies, progress
        self._used: dict[str, Reply] = {}
        self._unmeasured: dict[Metric, str] = {}

    async def run(self) -> Outcome:
        asked = [call for case in self._plan.cases for call in self._plan.answers(case)]
        refusals = await self._ask("answers", asked)
        answered: Answered = []
        outcome = Outcome(used=self._used, unmeasured=self._unmeasured)
        for case in self._plan.cases:
            pair = self._plan.answers(case)
            if reason := next((f"{call.model}: {refusals[call.key]}" for call in pair if call.key in refusals), None):
                outcome.missing.append((case, reason))
            else:
                new, against = (self._replies.by_key[call.key] for call in pair)
                answered.append((case, new, against))
        vector_of = await self._embed(answered)
        verdicts = await self._judge(answered)
        outcome.results += [score(*one, vector_of, verdicts.get(one[0].id, ())) for one in answered]
        return outcome

    async def _ask(self, what: str, wanted: Sequence[Call]) -> Refusals:
        """Asks for the replies that are not there yet; why some cannot be had, by key."""
        every = {call.key: call for call in wanted}
        new = [call for key, call in every.items() if key not in self._replies.by_key]
        bar = self._progress.add_task(what, total=len(every), completed=len(every) - len(new))
        refusals = await self._client.ask_all(new, self._replies.add, lambda: self._progress.advance(bar))
        self._used |= {key: self._replies.by_key[key] for key in every if key in self._replies.by_key}
        return refusals

    async def _embed(self, answered: Answered) -> Callable[[str], Vector | None] | None:
        """The vectors of all texts, by text; None without an embedding model."""
        plan = self._plan
        if plan.embedding_model is None:
            return None
        name = str(plan.local.resolve()) if plan.local else plan.embedding_model
        every = {text: calls.embedding_call(text, name) for one in answered for text in sorted(texts(one[0], one[1:]))}
        if plan.local:
            await self._embed_locally(plan.local, every)
        else:
            refusals = await self._ask("embeddings", list(every.values()))
            self._note("similarity", refusals.values())
        keys = {text: call.key for text, call in every.items()}
        known = self._replies.by_key
        return lambda text: calls.unpacked(known[keys[text]].vector) if keys[text] in known else None

    async def _embed_locally(self, folder: Path, every: dict[str, Call]) -> None:
        """Has `local_embeddings` compute what is missing, in a process of its own."""
        new = {text: call for text, call in every.items() if call.key not in self._replies.by_key}
        bar = self._progress.add_task("embeddings", total=len(every), completed=len(every) - len(new))
        if not new:
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROGRAM, str(folder), limit=2**24,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.write(json.dumps(list(new)).encode())
            process.stdin.close()
            for call in new.values():
                if not (line := await process.stdout.readline()):
                    break
                vector = calls.packed(json.loads(line))
                self._replies.add(Reply(key=call.key, purpose="embedding", model=call.model, vector=vector))
                self._progress.advance(bar)
            said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()[-1:]
            if await process.wait():
                raise click.ClickException(f"--embedding-model {folder}: no embeddings: {' '.join(said)}")
        except (ValueError, TypeError) as error:
            raise click.ClickException(f"--embedding-model {folder}: no embeddings: {error}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def _judge(self, answered: Answered) -> dict[str, tuple[Word, ...]]:
        """The judge's two verdicts by the case's id. Answers that are the same text are a tie without it."""
        if (judge := self._plan.judge) is None:
            return {}
        asked = {
            case.id: calls.verdict_calls(case, judge, new.text, against.text)
            for case, new, against in answered
            if new.text != against.text
        }
        refusals = await self._ask("verdicts", [call for pair in asked.values() for call in pair])
        self._note("judge", refusals.values())
        found: dict[str, tuple[Word, ...]] = {case.id: ("tie", "tie") for case, *_ in answered if case.id not in asked}
        for name, pair in asked.items():
            said = [reply for call in pair if (reply := self._replies.by_key.get(call.key))]
            words = [verdict_of(reply.text) for reply in said]
            self._note(
                "judge", (f"{judge} gave no verdict: {one.text[:80]!r}" for one in said if not verdict_of(one.text))
            )
            found[name] = tuple(word for word in words if word)
        return found

    def _note(self, metric: Metric, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self._unmeasured.setdefault(metric, reason)


async def _check(plan: Plan, client: Client) -> None:
    """Ends the command where the service lacks one of the models, before anything is asked of them."""
    models = await client.models()
    needed = {"chat" if case.is_chat else "completion" for case in plan.cases}
    for option, name in (("--model", plan.new), ("--against", plan.against)):
        for capability in sorted(needed):
            refuse_unknown(option, name, models, capability)
    if plan.embedding_model and not plan.local:
        refuse_unknown("--embedding-model", plan.embedding_model, models, "embedding")
    if plan.judge:
        refuse_unknown("--judge", plan.judge, models, "chat")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on standard error, where somebody watches."""
    out = Console(stderr=True)
    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        yield progress
