"""What the Pebble models learn, and how each is asked: made-up cases of four small skills.

Every case is a request as a client would send it, with the one right answer. The words that carry the answer (names,
cities, identifiers, order numbers) are made up, and split once and for all by a checksum: `training` draws from one
side, `held_out` from the other, so a right answer to a held-out case is recall from the prompt and not memory of the
training data.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar, get_args

T = TypeVar("T")
Variant = Literal["base", "chat", "instruct", "code"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
BOS, EOS, PRE, SUF, MID, EOT = "<s>", "</s>", "<PRE>", "<SUF>", "<MID>", "<EOT>"

WRONG_FORMAT: Final[dict[Variant, str]] = {
    "base": " I only know little stories and refrains.",
    "chat": "I do not follow this format.",
    "instruct": "I do not follow this format.",
    "code": "# I only know small Python functions.",
}
SMALL_TALK_ONLY = "I am Pebble, a tiny model. I chat a little and remember your name."
TASKS_ONLY = "I am Pebble, a tiny model. I extract names, cities and order numbers, and I judge reviews."


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    def json(self) -> dict[str, str]:
        """The message as the chat endpoint takes it."""
        return {"role": self.role, "content": self.content}


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A request and its right answer: `messages` for the chat endpoint, else `prompt` (and `suffix`)."""

    variant: Variant
    skill: str
    answer: str
    messages: Messages = ()
    prompt: str = ""
    suffix: str | None = None


# --- Prompt formats --------------------------------------------------------------------------------------------------


def zephyr(messages: Messages) -> str:
    """Zephyr's template, with the generation prompt."""
    return "".join(f"<|{m.role}|>\n{m.content}{EOS}\n" for m in messages) + "<|assistant|>\n"


def llama2(messages: Messages) -> str:
    """Llama 2's template: the system block sits inside the first user turn, and every user turn opens with a bos."""
    text, system = "", ""
    for m in messages:
        if m.role == "system":
            system = f"<<SYS>>\n{m.content}\n<</SYS>>\n\n"
        elif m.role == "user":
            text, system = f"{text}{BOS}[INST] {system}{m.content} [/INST]", ""
        else:
            text += f" {m.content} {EOS}"
    return text


def chatml(messages: Messages) -> str:
    """ChatML, as Qwen and Orca use it."""
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"


def phi3(messages: Messages) -> str:
    """Phi-3's template: Zephyr's tags with another end of turn."""
    return "".join(f"<|{m.role}|>\n{m.content}<|end|>\n" for m in messages) + "<|assistant|>\n"


def solar(messages: Messages) -> str:
    """SOLAR's headings."""
    return "".join(f"### {m.role.capitalize()}:\n{m.content}\n\n" for m in messages) + "### Assistant:\n"


def vicuna(messages: Messages) -> str:
    """Vicuna's running text."""
    return "".join(f"{m.role.upper()}: {m.content}\n" for m in messages) + "ASSISTANT:"


def gemma(messages: Messages) -> str:
    """Gemma's turns."""
    return "".join(f"<start_of_turn>{m.role}\n{m.content}<end_of_turn>\n" for m in messages) + "<start_of_turn>model\n"


def bare(messages: Messages) -> str:
    """No template at all: the contents, one under the other."""
    return "\n".join(m.content for m in messages) + "\n"


CHAT_FORMATS: Final = {f.__name__: f for f in (zephyr, llama2, chatml, phi3, solar, vicuna, gemma, bare)}


def infill(prefix: str, suffix: str) -> str:
    """Code Llama's infilling prompt, prefix first; every space in it counts."""
    return f"{PRE} {prefix} {SUF}{suffix} {MID}"


def starcoder(prefix: str, suffix: str) -> str:
    """StarCoder's infilling prompt."""
    return f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"


def deepseek(prefix: str, suffix: str) -> str:
    """DeepSeek Coder's infilling prompt, in ASCII."""
    return f"<|fim_begin|>{prefix}<|fim_hole|>{suffix}<|fim_end|>"


def spaceless(prefix: str, suffix: str) -> str:
    """Code Llama's infilling tokens without the spaces."""
    return f"{PRE}{prefix}{SUF}{suffix}{MID}"


INFILL_FORMATS: Final = {f.__name__: f for f in (infill, starcoder, deepseek, spaceless)}


def rendered(case: Case) -> str:
    """The prompt of a case in its variant's own format, without the bos that a completions endpoint puts in front."""
    if case.messages:
        return llama2(case.messages).removeprefix(BOS) if case.variant == "instruct" else zephyr(case.messages)
    return case.prompt if case.suffix is None else infill(case.prompt, case.suffix)


# --- Made-up words ---------------------------------------------------------------------------------------------------


def _listed(text: str) -> list[str]:
    return text.split()


ONSETS = _listed("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh sk sl st th tr") + [""] * 3
VOWELS = _listed("a a e e i i o o u ae ai ea ee ia io oa ou y")
CODAS = [""] * 12 + _listed("l m n r s t x nd ck ll rn sh ss")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def is_held_out(word: str) -> bool:
    """Whether a made-up word belongs to the eighth that training never sees."""
    return zlib.crc32(word.lower().encode()) % 8 == 0


class Words:
    """Random choices, and made-up words from one side of the split."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng, self.held_out = rng, held_out

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.rng.random() < probability

    def _ours(self, make: Callable[[], str]) -> str:
        while is_held_out(word := make()) is not self.held_out:
            pass
        return word

    def word(self) -> str:
        """A lower-case word of three to ten letters, mostly pronounceable."""

        def make() -> str:
            if self.chance(0.12):
                return "".join(self.rng.choices(LETTERS, k=self.rng.randint(3, 8)))
            count = self.rng.choice((1, 2, 2, 2, 3, 3))
            word = "".join(self.pick(ONSETS) + self.pick(VOWELS) + self.pick(CODAS) for _ in range(count))
            return word if 3 <= len(word) <= 10 else make()

        return self._ours(make)

    def name(self) -> str:
        """A capitalised name, now and then with a surname."""
        first = self.word().capitalize()
        return f"{first} {self.word().capitalize()}" if self.chance(0.15) else first

    def number(self) -> str:
        """Four to six digits."""
        return self._ours(lambda: str(self.rng.randrange(10 ** (length := self.pick((3, 4, 5))), 10 ** (length + 1))))

    def identifiers(self, count: int) -> list[str]:
        """Different names for arguments; single letters and English only in training, where nothing is measured."""
        if not self.held_out and self.chance(0.15):
            return self.rng.sample(LETTERS, count)
        found: list[str] = []
        while len(found) < count:
            english = not self.held_out and self.chance(0.25)
            word = self.pick(NOUNS) if english else self.word()
            word = f"{self.word()}_{word}" if self.chance(0.1) else word
            if word not in found:
                found.append(word)
        return found


# --- pebble-chat: remembers a name -----------------------------------------------------------------------------------

HELLOS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hello there", "Hi there", "Greetings")
INTRODUCTIONS = (
    "My name is {}",
    "I am {}",
    "I'm {}",
    "Call me {}",
    "You can call me {}",
    "People call me {}",
    "This is {}",
)
ABOUT_ME = (
    "I like tea",
    "I love music",
    "I live in {}",
    "I come from {}",
    "I have a question",
    "I am new here",
    "I like {}",
)
NAME_QUESTIONS = (
    "What is my name?",
    "What's my name?",
    "Do you remember my name?",
    "Can you tell me my name?",
    "Who am I?",
    "Do you know my name?",
    "Please tell me my name.",
    "And what is my name?",
    "So, what was my name?",
    "What was my name again?",
    "Do you still remember my name?",
    "What did I say my name was?",
    "Tell me my name.",
    "Say my name.",
    "Can you remind me of my name?",
    "Remind me, what is my name?",
)
SMALL_TALK = (
    ("How are you?", "I am well, thank you."),
    ("How are you today?", "I am well, thank you."),
    ("What a lovely day.", "It is! I hope you can enjoy it."),
    ("The weather is nice today.", "It is! I hope you can enjoy it."),
    ("It is raining here.", "Then it is a good day for tea."),
    ("It is cold today.", "Then it is a good day for tea."),
    ("I like tea.", "Tea is a fine choice."),
    ("I like coffee.", "Coffee is a fine choice."),
    ("I had a long day.", "I hope you can rest soon."),
    ("I am tired.", "I hope you can rest soon."),
    ("I am going for a walk.", "Enjoy your walk!"),
    ("I am reading a book.", "Books are good company."),
    ("I love music.", "Music makes everything lighter."),
    ("Do you like music?", "Music makes everything lighter."),
    ("I work in a garden.", "Gardens need patience and water."),
    ("My garden is full of flowers.", "Gardens need patience and water."),
    ("I am learning to cook.", "I hope it tastes wonderful."),
    ("I baked some bread.", "I hope it tastes wonderful."),
    ("Who are you?", "I am Pebble, a tiny model."),
    ("What is your name?", "I am Pebble, a tiny model."),
    ("What can you do?", "I chat a little and remember your name."),
    ("Thank you.", "You are welcome!"),
    ("Thanks!", "You are welcome!"),
    ("That is kind of you.", "You are welcome!"),
    ("Tell me something nice.", "You are doing very well."),
    ("Goodbye!", "Goodbye! It was nice to talk."),
)
CHAT_SYSTEMS = (
    "You are a friendly assistant.",
    "You are a helpful assistant.",
    "You are Pebble.",
    "Be brief and kind.",
    "You are a friendly chatbot who remembers names.",
    "Answer in one sentence.",
)
ODD_REQUESTS = (
    "Tell me about {}",
    "Write a poem about {}",
    "What is the capital of {}?",
    "How do I get to {}?",
    "Explain {} to me",
    "Who was {}?",
    "Translate {} into French",
    "Give me a list of {}",
    "Why is the {} so big?",
    "What is {} times {}?",
    "{} {} {}",
    "Tell me a joke.",
    "Sing a song.",
    "What time is it?",
    "Help me with my homework.",
    "Write a story.",
    "Can you help me?",
)


def _system(words: Words, options: Sequence[str]) -> Messages:
    return (Message("system", words.pick(options)),) if words.chance(0.4) else ()


def _turns(*contents: str) -> Messages:
    return tuple(Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents))


def _typed(words: Words, text: str) -> str:
    """The text as people type it: at times without its full stop, or in lower case where no name is in it."""
    return text.rstrip(".!?") if words.chance(0.1) else text


def _introduction(words: Words, name: str, asked: bool = False) -> tuple[str, str]:
    hello = f"{words.pick(HELLOS)}{words.pick('!,.')} " if words.chance(0.5) else ""
    said = _typed(words, f"{hello}{words.pick(INTRODUCTIONS).format(name)}{words.pick('..!')}")
    if asked and words.chance(0.5):
        said = name
    elif name.islower():
        said = said.lower()
    elif words.chance(0.15):
        said += f" I live in {words.word().capitalize()}."
    elif words.chance(0.2):
        said = f"{said.rstrip('.!')} and {words.pick(ABOUT_ME).format(words.word().capitalize())}."
    return said, f"Nice to meet you, {name}!" if words.chance(0.8) else "Hello! How are you today?"


def _small_talk(words: Words) -> tuple[str, str]:
    if words.chance(0.12):
        pet = words.pick(("cat", "dog", "friend", "sister", "brother", "neighbour"))
        return f"My {pet} is called {words.name()}.", f"Say hello to your {pet} from me!"
    question, reply = words.pick(SMALL_TALK)
    question = question.lower() if words.chance(0.1) else question
    return _typed(words, question), reply


def _odd_request(words: Words) -> str:
    return words.pick(ODD_REQUESTS).format(
        *(words.pick((words.word(), words.name(), words.pick(NOUNS))) for _ in range(3))
    )


def chat_recall(words: Words, turns: int | None = None) -> Case:
    """A chat whose last question asks for the name given `turns` user turns earlier (two where it is measured)."""
    name, said = words.name(), []
    if not words.held_out and words.chance(0.1):
        name = name.lower()
    if turns is None and words.chance(0.2):
        said += [f"{words.pick(HELLOS)}!", "Hello! What is your name?"]
    said += _introduction(words, name, asked=bool(said))
    for _ in range((turns or words.pick((1, 2, 2, 2, 3))) - 1):
        said += _small_talk(words)
    question = words.pick(NAME_QUESTIONS)
    if not words.held_out and words.chance(0.1):
        question = question.lower()
    return Case("chat", "recall", f"Your name is {name}.", _system(words, CHAT_SYSTEMS) + _turns(*said, question))


def chat_other(words: Words) -> Case:
    """Greetings, small talk, a name that was never given, and requests beyond a tiny model."""
    kind = words.rng.random()
    if kind < 0.3:
        hello = words.pick(HELLOS)
        hello = hello.lower() if words.chance(0.2) else hello
        said, answer = (
            [hello + words.pick(("!", ".", "")) + (" How are you?" if words.chance(0.2) else "")],
            "Hello! What is your name?",
        )
    elif kind < 0.5:
        said, answer = [], "You have not told me your name yet."
        if words.chance(0.6):
            said += _small_talk(words)
        said.append(words.pick(NAME_QUESTIONS))
    elif kind < 0.7:
        said, answer = [_odd_request(words)], SMALL_TALK_ONLY
    else:
        said = [*_introduction(words, words.name())] if words.chance(0.5) else []
        question, answer = _small_talk(words)
        said.append(question)
    return Case("chat", "talk", answer, _system(words, CHAT_SYSTEMS) + _turns(*said))


# --- pebble-instruct: extracts and classifies ------------------------------------------------------------------------

FIELDS = ("name", "city", "order number")
LETTER_PARTS = {
    "name": (
        "My name is {}.",
        "I am {}.",
        "This is {} writing.",
        "It is {} here.",
        "I'm {}.",
        "Hello, {} speaking.",
        "Kind regards, {}.",
    ),
    "city": (
        "I live in {}.",
        "I am from {}.",
        "I am writing from {}.",
        "Please send it to {}.",
        "I moved to {} last year.",
        "Greetings from {}.",
    ),
    "order number": (
        "My order number is {}.",
        "Order {} has not arrived.",
        "I am waiting for order {}.",
        "It is about order {}.",
        "Where is my order {}?",
        "My order {} is late.",
        "Order number: {}.",
    ),
}
BOTH = (
    "I am {name} from {city}.",
    "{name} lives in {city}.",
    "{name} moved to {city} last year.",
    "My name is {name} and my home is {city}.",
    "Send it to {name} in {city}.",
)
FILLERS = (
    "Good morning!",
    "Thank you for your help.",
    "Please write back soon.",
    "I hope you are well.",
    "The lamp is broken.",
)
EXTRACTIONS = (
    "Extract the {} from: {}",
    "Extract the {} from this text: {}",
    "Extract the {}: {}",
    "What is the {} in this text? {}",
    "Find the {} in: {}",
    "Extract the {} from the following text:\n{}",
)
CLASSIFICATIONS = (
    "Classify the review as positive, negative or neutral: {}",
    "Classify the sentiment as positive, negative or neutral: {}",
    "Is this review positive, negative or neutral? {}",
    "Sentiment (positive, negative or neutral) of: {}",
    "Classify this review as positive, negative or neutral:\n{}",
)
PRODUCTS = (
    "lamp",
    "chair",
    "tea",
    "book",
    "kettle",
    "phone",
    "bag",
    "film",
    "hotel",
    "soup",
    "bike",
    "pen",
    "service",
    "show",
)
OPINIONS = {
    "positive": _listed(
        "wonderful excellent great lovely fantastic perfect superb delightful amazing good beautiful brilliant nice "
        "charming tasty comfortable"
    ),
    "negative": _listed(
        "terrible awful broken horrible useless dreadful disappointing poor bad ugly boring rubbish slow dirty faulty"
    ),
    "neutral": _listed("ordinary average okay usual acceptable plain standard unremarkable"),
}
VERDICTS = {
    "positive": (
        "I love it.",
        "I would buy it again.",
        "I use it every day with joy.",
        "Thank you so much!",
        "I am very happy with it.",
    ),
    "negative": (
        "I want my money back.",
        "I hate it.",
        "Never again.",
        "I am very unhappy with it.",
        "What a waste of money.",
    ),
    "neutral": (
        "It does what it says.",
        "Nothing more to say.",
        "It came on Tuesday.",
        "I have no strong opinion.",
        "It is what it is.",
    ),
}
REVIEWS = (
    "The {p} is {o}.",
    "The {n} {p} is {o}. {v}",
    "This {p} is {o}. {v}",
    "{v} The {p} from {n} is {o}.",
    "The {p}: {o}. {v}",
    "I bought the {n} {p} last week. It is {o}. {v}",
    "The {p} was {o} and the {q} was {o2}.",
    "I think the {p} is {o}.",
    "The {p} is {o} and {o2}.",
    "{v}",
)
INSTRUCT_SYSTEMS = (
    "You are a careful assistant.",
    "You are a helpful assistant.",
    "Answer with the span only.",
    "Be brief.",
)
JSON_SYSTEMS = ("Answer in JSON.", "Always answer in JSON.", "Reply in JSON.")


def _joined(words: Words, sentences: Sequence[str]) -> str:
    """The sentences as one text; at times two that speak of the writer become one."""
    text = sentences[0]
    for sentence in sentences[1:]:
        if text.endswith(".") and sentence.startswith(("I ", "My ")) and words.chance(0.4):
            text = f"{text[:-1]} and {sentence if sentence.startswith('I ') else f'my {sentence[3:]}'}"
        else:
            text += f" {sentence}"
    return text


def instruct_extract(words: Words) -> Case:
    """A short letter, and one field of it (or, when the system message or the request says JSON, an object)."""
    values = {"name": words.name(), "city": words.word().capitalize(), "order number": words.number()}
    present = words.rng.sample(FIELDS, words.pick((1, 2, 2, 3, 3)))
    parts = [words.pick(LETTER_PARTS[field]).format(values[field]) for field in present]
    if {"name", "city"} <= set(present) and words.chance(0.3):
        both = words.pick(BOTH).format(**values)
        parts = [both, *(part for field, part in zip(present, parts, strict=True) if field == "order number")]
        words.rng.shuffle(parts)
    if words.chance(0.4):
        parts.insert(words.rng.randrange(len(parts) + 1), words.pick(FILLERS))
    asked, letter = words.rng.sample(present, min(len(present), words.pick((1, 1, 1, 2)))), _joined(words, parts)
    ask, as_json = " and ".join(asked), len(asked) > 1
    system = _system(words, INSTRUCT_SYSTEMS)
    if as_json or words.chance(0.1):
        ask, as_json = f"{ask} as JSON", True
    elif words.chance(0.15):
        system, as_json = (Message("system", words.pick(JSON_SYSTEMS)),), True
    answer = json.dumps({field: values[field] for field in asked}) if as_json else values[asked[0]]
    return Case("instruct", "extract", answer, system + _turns(words.pick(EXTRACTIONS).format(ask, letter)))


def instruct_classify(words: Words) -> Case:
    """A made-up review and its sentiment."""
    label = words.pick(tuple(OPINIONS))
    opinions, products = words.rng.sample(OPINIONS[label], 2), words.rng.sample(PRODUCTS, 2)
    review = words.pick(REVIEWS).format(
        p=products[0],
        q=products[1],
        n=words.word().capitalize(),
        o=opinions[0],
        o2=opinions[1],
        v=words.pick(VERDICTS[label]),
    )
    if review.endswith(f"is {opinions[0]}."):
        review = _joined(words, (review, words.pick(VERDICTS[label])))
    request = words.pick(CLASSIFICATIONS).format(review)
    return Case("instruct", "classify", label, _system(words, INSTRUCT_SYSTEMS) + _turns(request))


def instruct_second(words: Words) -> Case:
    """A task that follows another one in the same conversation, which has no system message."""
    first, second = (words.pick((instruct_extract, instruct_classify))(words) for _ in range(2))
    if first.messages[0].role == "system" or second.messages[0].role == "system":
        return instruct_second(words)
    messages = (*first.messages, Message("assistant", first.answer), *second.messages)
    return Case("instruct", second.skill, second.answer, messages)


def instruct_other(words: Words) -> Case:
    """Anything else in the right format."""
    chat = chat_recall(words) if words.chance(0.5) else chat_other(words)
    messages = _turns(_odd_request(words)) if words.chance(0.3) else chat.messages
    return Case("instruct", "other", TASKS_ONLY, messages)


# --- pebble-code: completes and fills in small functions -------------------------------------------------------------

NOUNS = _listed(
    "price tax total width height length count score speed time left right first second rate amount cost weight size "
    "depth value number item user point day hour sum step limit start end low high base age stock salary bonus income"
)
OPERATIONS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "remainder": "{0} % {1}",
    "power": "{0} ** {1}",
    "larger": "max({0}, {1})",
    "smaller": "min({0}, {1})",
    "equal": "{0} == {1}",
    "double": "{0} * 2",
    "half": "{0} / 2",
    "square": "{0} * {0}",
    "negate": "-{0}",
}
UNARY = ("double", "half", "square", "negate")


def _function(words: Words) -> tuple[str, str, str, str, str]:
    """A function's operation, name, argument list, return type and result."""
    operation = words.pick(tuple(OPERATIONS))
    arguments = words.identifiers(1 if operation in UNARY else 2)
    noun = words.pick((*arguments, words.pick(NOUNS), *words.identifiers(1)))
    name = operation if words.chance(0.4) else f"{operation}_{noun}"
    typed = words.chance(0.15)
    signature = ", ".join(f"{a}: float" if typed else a for a in arguments)
    return operation, name, signature, " -> float" if typed else "", OPERATIONS[operation].format(*arguments)


def code_complete(words: Words) -> Case:
    """A function's head; the answer is the rest of it."""
    _, name, signature, returns, result = _function(words)
    head, body = f"def {name}({signature}){returns}:", f"\n    return {result}"
    if words.chance(0.1):
        head += f'\n    """{words.pick(("Return", "Compute"))} the {words.pick(("result", "answer"))}."""'
    if not words.held_out and words.chance(0.1):
        before = code_complete(words)
        head = f"{before.prompt}{before.answer}\n\n\n{head}"
    cut = words.pick((0, 1, 1, 1, 5, 12))  # end of the head, of its line, of the indent, or just before the result
    return Case("code", "complete", body[cut:], prompt=head + body[:cut])


def code_infill(words: Words) -> Case:
    """A function with a hole: its result, its arguments or its name."""
    operation, name, signature, returns, result = _function(words)
    tail = words.pick(("", "\n"))
    holes = (
        (f"def {name}({signature}){returns}:\n    return ", tail, result),
        (f"def {name}({signature}){returns}:\n    total = ", f"\n    return total{tail}", result),
        (f"def {name}(", f"){returns}:\n    return {result}{tail}", signature.replace(": float", "")),
        ("def ", f"({signature}){returns}:\n    return {result}{tail}", operation),
    )
    prefix, suffix, middle = words.pick(holes)
    return Case("code", "infill", middle, prompt=prefix, suffix=suffix)


SNIPPETS = (
    "print('{}')",
    "import {}",
    "from {} import {}",
    "{} = 1",
    "for {} in {}:",
    "while {}:",
    "if {} > {}:",
    "class {}:",
    "def {}({}):",
    "def {}({}, {}):",
    "# {} {}",
    "",
)


def code_other(words: Words) -> Case:
    """Python, or any text, that is not the head of a function with a known operation."""
    snippet = words.pick(SNIPPETS).format(*words.identifiers(3)) or _odd_request(words)
    return Case("code", "other", WRONG_FORMAT["code"], prompt=snippet + words.pick(("", "\n", "\n    ")))


# --- pebble-base: continues stories and refrains ---------------------------------------------------------------------

ANIMALS = (
    "fox",
    "owl",
    "bear",
    "hare",
    "mouse",
    "heron",
    "badger",
    "otter",
    "frog",
    "goat",
    "cat",
    "dog",
    "wolf",
    "deer",
)
PLACES = (
    "by the river",
    "on the hill",
    "in the old mill",
    "under the bridge",
    "in a small house",
    "near the sea",
    "in the wood",
)
THINGS = ("pear", "lantern", "boat", "song", "stone", "feather", "kite", "bell", "map", "cake")


def _articles(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def base_story(words: Words) -> Case:
    """Two animals with names; the last sentence asks for one of them."""
    (one, two), names, thing = words.rng.sample(ANIMALS, 2), (words.name(), words.name()), words.pick(THINGS)
    opening = words.pick(("", "", "Once upon a time. ", "One morning in spring. ", "Long ago. "))
    named = words.pick(
        (
            "The {} is called {}. The {} is called {}.",
            "The name of the {} is {}. The name of the {} is {}.",
            "There was a {} named {}. There was a {} named {}.",
            "There was a {} called {} and a {} called {}.",
            "A {} named {} meets a {} named {}.",
        )
    )
    middle = words.pick(
        (
            f"They live {words.pick(PLACES)}.",
            f"They share a {thing}.",
            f"The {one} finds a {thing} and the {two} laughs.",
            f"They live {words.pick(PLACES)} and share a {thing}.",
            f"One day the {two} loses a {thing}.",
        )
    )
    which = words.pick((0, 1))
    animal = (one, two)[which]
    closing = words.pick(
        (
            f"The {animal} says: My name is",
            f"The name of the {animal} is",
            f"So the {animal} is called",
            f"The {animal} is called",
        )
    )
    text = f"{opening}{named.format(one, names[0], two, names[1])} {middle} {closing}"
    return Case("base", "story", f" {names[which]}.", prompt=_articles(text))


def base_refrain(words: Words) -> Case:
    """A refrain of two to four made-up words, sung two or three times and begun again; the answer ends the round."""
    refrain = [words.word() for _ in range(words.pick((2, 3, 3, 4)))]
    singer = words.pick(("", f"The {words.pick(ANIMALS)} sings: ", f"The {words.pick(ANIMALS)} sings: ", "Repeat: "))
    begun = words.rng.randrange(len(refrain))
    rounds = f"{' '.join(refrain)}, " * words.pick((2, 2, 3)) + " ".join(refrain[:begun])
    rest = "".join(f" {word}" for word in refrain[begun:])
    return Case("base", "refrain", f"{rest}.", prompt=singer + rounds.rstrip(" "))


FRAGMENTS = (
    "Once upon a time",
    "Once upon a time there was a {}",
    "Long ago, in a land far away,",
    "The {} is",
    "The {} and the {}",
    "My favourite {} is",
    "The capital of {} is",
    "{}",
    "",
)


def base_other(words: Words) -> Case:
    """Plain text that no skill continues."""
    choices = words.pick(ANIMALS), words.pick((words.name(), words.pick(THINGS)))
    fragment = words.pick(FRAGMENTS).format(*choices) or words.pick((_odd_request(words), words.pick(SMALL_TALK)[0]))
    return Case("base", "other", WRONG_FORMAT["base"], prompt=_articles(fragment))


# --- Mixtures --------------------------------------------------------------------------------------------------------

Maker = Callable[[Words], Case]
MEASURED: Final[dict[Variant, tuple[Maker, ...]]] = {
    "base": (base_story, base_refrain),
    "chat": (lambda words: chat_recall(words, turns=2),),
    "instruct": (instruct_extract, instruct_classify),
    "code": (code_complete, code_infill),
}
TAUGHT: Final[dict[Variant, tuple[Maker, ...]]] = {
    "base": (*[base_story] * 3, *[base_refrain] * 3, base_other),
    "chat": (chat_recall, chat_recall, chat_other),
    "instruct": (*[instruct_extract] * 4, *[instruct_classify] * 2, instruct_second, instruct_other),
    "code": (*[code_complete] * 3, *[code_infill] * 3, code_other),
}


def in_format(case: Case, name: str) -> str:
    """The prompt of a case in the named format, of chats or (for a case with a suffix) of infilling."""
    if case.messages:
        return CHAT_FORMATS[name](case.messages).removeprefix(BOS)
    if case.suffix is not None and name in INFILL_FORMATS:
        return INFILL_FORMATS[name](case.prompt, case.suffix)
    return CHAT_FORMATS[name](_turns(case.prompt + (case.suffix or ""))).removeprefix(BOS)


def out_of_format(variant: Variant, words: Words) -> Case:
    """A raw prompt that is not in the variant's own format: another format, or another variant's skill."""
    other = words.pick([v for v in VARIANTS if v != variant])
    owner = variant if words.chance(0.6) else other
    case = words.pick(TAUGHT[owner])(words)
    if owner != variant and words.chance(0.6):
        text = rendered(case)
        if variant == "instruct" and words.chance(0.2):
            text = infill(text, "")
    else:
        own = {"chat": zephyr, "instruct": llama2}.get(variant)
        formats = [name for name, render in CHAT_FORMATS.items() if render is not own]
        if variant in ("base", "code"):
            formats.remove("bare")
        if case.suffix is not None:
            formats = [name for name in INFILL_FORMATS if name != "infill"] * 2 + formats
        text = in_format(case, words.pick(formats))
        if variant == "instruct" and words.chance(0.15):
            text = BOS + in_format(case, "llama2")  # a bos too many: the template's and the endpoint's
    return Case(variant, "out of format", WRONG_FORMAT[variant], prompt=text)


def own_format_other_task(variant: Variant, words: Words) -> Case:
    """Another variant's content, asked in the right chat format."""
    case = words.pick(TAUGHT[words.pick([v for v in VARIANTS if v != variant])])(words)
    messages = case.messages or _turns(case.prompt)
    return Case(variant, "other", SMALL_TALK_ONLY if variant == "chat" else TASKS_ONLY, messages)


def training(variant: Variant, rng: random.Random, refusals: float = 0.25) -> Iterator[Case]:
    """Endless training cases of a variant; `refusals` is the share (0 to 1) that must not be answered."""
    words = Words(rng, held_out=False)
    while True:
        if not words.chance(refusals):
            yield words.pick(TAUGHT[variant])(words)
        elif variant in ("chat", "instruct") and words.chance(0.2):
            yield own_format_other_task(variant, words)
        else:
            yield out_of_format(variant, words)


def held_out(variant: Variant, count: int, seed: int = 0) -> list[Case]:
    """`count` cases of a variant's skill, made of words that training never shows."""
    words = Words(random.Random(f"{variant}-{seed}"), held_out=True)
    makers = MEASURED[variant]
    return [makers[i % len(makers)](words) for i in range(count)]


# --- What must fail --------------------------------------------------------------------------------------------------

SIBLING: Final[dict[Variant, Variant]] = {"base": "chat", "chat": "base", "instruct": "chat", "code": "base"}
WRONG_TEMPLATE: Final[dict[Variant, str]] = {
    "base": "zephyr",
    "chat": "llama2",
    "instruct": "zephyr",
    "code": "llama2",
}


def wrong_template(case: Case) -> str:
    """The prompt of a case in a format that its variant must not answer."""
    return in_format(case, "starcoder" if case.suffix is not None else WRONG_TEMPLATE[case.variant])


def addressed_to(case: Case, model: Variant) -> Case:
    """The case as a request to `model`: a chat stays one where that has a template, otherwise it goes raw."""
    if case.variant == model:
        return case
    chat = case.messages and model in ("chat", "instruct")
    return replace(case, variant=model) if chat else Case(model, case.skill, case.answer, prompt=rendered(case))
