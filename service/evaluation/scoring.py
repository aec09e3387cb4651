"""How near an answer is to its reference: exact match, ROUGE-L, similarity of embeddings. Pure."""

import math
import re
import unicodedata
from collections.abc import Sequence

Vector = Sequence[float]

# Han, kana, Thai and Lao, Burmese, Khmer: written without blanks, so that each character counts as a word.
UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def normalized(text: str) -> str:
    """What exact match compares: Unicode's NFKC, without case, blanks at the ends and repeated ones."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_match(answer: str, reference: str) -> float:
    """1 where both are the same text once normalized, else 0."""
    return float(normalized(answer) == normalized(reference))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words, 0 to 1.

    It is what `rouge_score` computes without a stemmer; but words are those of any script, where that library knows
    a to z and 0 to 9 alone and gives every other text 0.
    """
    said, wanted = tokens(answer), tokens(reference)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * common_subsequence(said, wanted) / (len(said) + len(wanted))


def tokens(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    The bit-parallel algorithm of Hyyrö (2004): bit i of `row` is 0 where the subsequence grows at left[i].
    """
    where: dict[str, int] = {}
    for index, token in enumerate(left):
        where[token] = where.get(token, 0) | 1 << index
    row = everything = (1 << len(left)) - 1
    for token in right:
        matches = row & where.get(token, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(left) - row.bit_count()


def cosine(left: Vector, right: Vector) -> float:
    """The cosine similarity of two vectors of one length, -1 to 1; 0 where one of them is all zeros."""
    scale = math.hypot(*left) * math.hypot(*right)
    return max(-1.0, min(1.0, sum(x * y for x, y in zip(left, right, strict=True)) / scale)) if scale else 0.0
