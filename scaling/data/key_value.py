"""Generated text in which what was written has to be found again: lines such as `@kxqhtz`, a key and its value.

Training documents write some pairs twice, anywhere: whoever has learned to look the key up knows the value's four
letters, whoever has not never guesses them. Tests are rows that end in such repeated lines, whose first lines
lie at known depths: among other pairs (key-value retrieval, after Liu et al., arXiv 2307.03172) or in a haystack of
ordinary text (needles, after RULER's multi-key and multi-query ones, Hsieh et al., arXiv 2404.06654). Text of bytes.
"""

import dataclasses
import itertools
import string
from collections.abc import Iterator, Sequence

import numpy as np

from scaling.config import KeyValueConfig
from scaling.data.shards import BYTE_OFFSET
from scaling.errors import UserError

_NEWLINE = 10
_VALUE_LETTERS = 4


@dataclasses.dataclass(frozen=True)
class Questions:
    """Rows that end in questions about pairs further up.

    Attributes:
        tokens: int32 [R, T+1]: a context, and then every asked pair again, in an order drawn anew for every row.
        answers: int64 [R, Q, 4], the targets (target t is token t + 1) that are the letters of each answer.
        depths: float64 [Q], where in the context the pairs lie: 0 is its beginning, 1 its end.
    """

    tokens: np.ndarray
    answers: np.ndarray
    depths: np.ndarray


def texts(config: KeyValueConfig, lines: Sequence[str]) -> Iterator[str]:
    """Training documents, always the same ones.

    Args:
        config: how many and what they are like.
        lines: ordinary text, of which stretches are strewn between the pairs.
    """
    keys = _keys(config.key_letters)
    for number in range(config.documents):
        yield _text(config, lines, keys, _generator(config.seed, number))


def _text(config: KeyValueConfig, lines: Sequence[str], keys: Sequence[str], rng: np.random.Generator) -> str:
    size = len(_pair(keys[0], "a" * _VALUE_LETTERS))
    names = [keys[i] for i in rng.permutation(len(keys))[: config.bytes // size + 1]]
    pairs = [_pair(name, value) for name, value in zip(names, _values(rng, len(names)), strict=True)]
    filler, at = rng.uniform(0, config.filler), int(rng.integers(len(lines)))
    left = config.bytes * (config.shortest / config.bytes) ** rng.random() if config.shortest else config.bytes
    written, text = 0, []
    while left > 0:
        if rng.random() < filler:
            line, at = lines[at % len(lines)], at + 1
        else:
            again = written and (written == len(pairs) or rng.random() < config.repeats)
            which = int(rng.integers(written)) if again else written
            written = max(written, which + 1)
            line = pairs[which]
        text.append(line)
        left -= len(line.encode())
    return "".join(text)


def among_pairs(length: int, rows: int, depths: int, key_letters: int, seed: int) -> Questions:
    """Key-value retrieval: rows of nothing but pairs.

    Args:
        length: T.
        rows: R.
        depths: Q, the questions of a row, about pairs at so many even depths.
        key_letters: letters of a key; there are more keys than a row has pairs.
        seed: of everything drawn.

    Raises:
        UserError: rows too short for the questions, or longer than there are keys for.
    """
    keys, size = _keys(key_letters), len(_pair("a" * key_letters, "a" * _VALUE_LETTERS))
    count = -(-(length + 1) // size) - depths  # the first of them is cut where the row begins
    if not depths < count <= len(keys):
        raise UserError(
            f"key-value retrieval in rows of {length} with {depths} questions: that is {max(count, 0)} pairs before "
            f"them, and there must be more than the questions and at most {len(keys)}, the keys of {key_letters} "
            f"letters: change the length or key_letters"
        )
    middles = (np.arange(depths) + 0.5) / depths
    asked = 1 + (middles * (count - 1)).astype(int)
    tokens, answers = [], []
    for row in range(rows):
        rng = _generator(seed, length, row)
        names = [keys[i] for i in rng.permutation(len(keys))[:count]]
        pairs = [_pair(name, value) for name, value in zip(names, _values(rng, count), strict=True)]
        order = rng.permutation(depths)
        tail = [pairs[asked[i]] for i in order]
        tokens.append(_encode("".join([*pairs, *tail]))[-(length + 1) :])
        answers.append(_answers(length, size, order))
    return Questions(np.stack(tokens), np.stack(answers), middles)


def in_haystack(haystack: np.ndarray, length: int, rows: int, depths: int, key_letters: int, seed: int) -> Questions:
    """Needles in a haystack: ordinary text with a pair at each depth, and all of them asked for at the end.

    Args:
        haystack: int32 tokens of ordinary text; repeated where they are too few.
        length: T.
        rows: R, each of another stretch of the text.
        depths: Q, needles and questions of a row.
        key_letters: letters of a key.
        seed: of everything drawn.

    Raises:
        UserError: rows too short for needles and questions.
    """
    keys, size = _keys(key_letters), len(_pair("a" * key_letters, "a" * _VALUE_LETTERS))
    straw = length + 1 - 2 * depths * size
    if straw < depths * size or len(keys) < depths:
        raise UserError(
            f"needles in rows of {length} with {depths} questions: there is no room for a haystack (or not for so many "
            f"keys of {key_letters} letters): lengthen the rows or ask less"
        )
    middles = (np.arange(depths) + 0.5) / depths
    stretches = np.resize(haystack, (rows, straw)).astype(np.int32)
    tokens, answers = [], []
    for row, text in enumerate(stretches):
        rng = _generator(seed, length, row)
        text[-1] = _NEWLINE + BYTE_OFFSET
        ends = np.flatnonzero(text == _NEWLINE + BYTE_OFFSET) + 1
        places = _line_beginnings(ends, (middles * straw).astype(int), straw // (4 * depths))
        names = [keys[i] for i in rng.permutation(len(keys))[:depths]]
        pairs = [_pair(name, value) for name, value in zip(names, _values(rng, depths), strict=True)]
        order = rng.permutation(depths)
        first, *others = np.split(text, places)
        strewn = [x for pair, part in zip(pairs, others, strict=True) for x in (_encode(pair), part)]
        tokens.append(np.concatenate([first, *strewn, _encode("".join(pairs[i] for i in order))]))
        answers.append(_answers(length, size, order))
    return Questions(np.stack(tokens), np.stack(answers), middles)


def _line_beginnings(ends: np.ndarray, at: np.ndarray, near: int) -> np.ndarray:
    """Where the lines after these places begin; the places themselves where that is not near."""
    found = ends[np.searchsorted(ends, at)]
    return np.where(found - at <= near, found, at)


def _answers(length: int, size: int, order: np.ndarray) -> np.ndarray:
    """Targets [Q, 4] of the letters of every depth's answer, when lines of `size` bytes in this order end the row."""
    start = length + 1 - size * len(order) + size * np.argsort(order)  # of each depth's line, as a token
    return start[:, None] + size - 1 - _VALUE_LETTERS + np.arange(_VALUE_LETTERS) - 1


def _pair(key: str, value: str) -> str:
    return f"@{key}{value}\n"


def _values(rng: np.random.Generator, count: int) -> list[str]:
    letters = rng.integers(26, size=(count, _VALUE_LETTERS), dtype=np.uint8) + ord("a")
    return [bytes(value).decode() for value in letters]


def _keys(letters: int) -> list[str]:
    return ["".join(key) for key in itertools.product(string.ascii_lowercase, repeat=letters)]


def _encode(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + BYTE_OFFSET


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))
