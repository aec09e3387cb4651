"""Simulated workloads: each defines how a conversation begins and continues."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.protocol.requests import ChatRequest, Message

Role = Literal["system", "user", "assistant"]

CHARACTERS = 4  # of a token
WORDS = tuple("".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=6)) for number in range(4000))
GREETINGS = ("Hi", "Hello!", "hey", "Hello, how are you?", "test")
GREETED = tuple(f"user\n{greeting}\n" for greeting in GREETINGS)


class Conversation:
    """One conversation of so many `turns`; `text` is what an engine reads of it, `blocks` what it calls the parts."""

    def __init__(self, system: str, first: str, turns: int) -> None:
        self.turns, self.text = turns, ""
        self.blocks: list[int] = []
        self._messages: list[Message] = []
        self.request = ChatRequest(model="any", messages=self._messages)
        self.say("system", system)
        self.say("user", first)

    @property
    def asked(self) -> int:
        """How many turns its user has had."""
        return len(self._messages) // 2

    @property
    def tokens(self) -> int:
        """How long it is."""
        return len(self.text) // CHARACTERS

    def say(self, role: Role, content: str) -> None:
        """Lets one of them say something."""
        self._messages.append(Message(role=role, content=content))
        self.text += f"{role}\n{content}\n"


Opening = Callable[[random.Random, int], Conversation]


@dataclass(frozen=True)
class Workload:
    """So many users of each replica, each in one conversation at a time; lengths are tokens, `think` is mean seconds.

    `opening` begins one for the user of a number. `blocks` is the size of a replica's cache, in blocks.
    """

    name: str
    opening: Opening
    users: int
    think: float
    blocks: int
    question: tuple[int, int] = (10, 120)
    answer: tuple[int, int] = (40, 400)

    def says(self, rng: random.Random) -> str:
        """What a user says next."""
        return text(rng, rng.randint(*self.question))

    def answers(self, rng: random.Random, conversation: Conversation) -> str:
        """What the model says next; to a greeting it says little."""
        return text(rng, 12 if conversation.text.endswith(GREETED) else rng.randint(*self.answer))


def text(rng: random.Random, tokens: int) -> str:
    """So many tokens of text."""
    length = tokens * CHARACTERS
    return " ".join(rng.choices(WORDS, k=length // 7 + 1))[:length]


def workloads(replicas: int) -> tuple[Workload, ...]:
    """What is measured with so many replicas."""
    system, shared = text(random.Random(1), 40), text(random.Random(2), 6000)
    # Five users share each of them; they need three quarters of all the caches together.
    contexts = tuple(text(random.Random(100 + number), 6000) for number in range(15 * replicas))
    return (
        Workload("chats", chats(system), users=32, think=20.0, blocks=6000),
        Workload("contexts", shared_by_few(contexts), users=75, think=40.0, blocks=7700),
        Workload("hot prefix", hot(shared), users=32, think=10.0, blocks=6000),
        Workload("hot prefix, busy", hot(shared), users=128, think=10.0, blocks=24000),
        Workload("one question", same(shared), users=128, think=10.0, blocks=6000),
    )


def chats(system: str) -> Opening:
    """Chats of eight turns in the mean, no two alike but for a short system prompt; a third begins with a greeting."""

    def opening(rng: random.Random, user: int) -> Conversation:
        first = rng.choice(GREETINGS) if rng.random() < 0.3 else text(rng, rng.randint(8, 60))
        return Conversation(system, first, 1 + min(20, int(rng.expovariate(1 / 7))))

    return opening


def shared_by_few(contexts: Sequence[str]) -> Opening:
    """Many long contexts with a few users each."""
    return lambda rng, user: Conversation(contexts[user % len(contexts)], text(rng, 300), turns=2)


def hot(context: str) -> Opening:
    """One long context for everybody."""
    return lambda rng, user: Conversation(context, text(rng, 60), turns=6)


def same(context: str) -> Opening:
    """One request for everybody, word for word."""
    return lambda rng, user: Conversation(context, "Summarise the text above in three sentences.", turns=1)
