"""What the tests of this folder build their cases from."""

import hashlib
from pathlib import Path

import numpy as np

from scaling.config import DataConfig, MixtureComponent, SourceConfig, TaskConfig
from scaling.data.loader import TokenStream

SHARED_TEXT = Path(__file__).parents[3].parent / "shared" / "data" / "text"


class MemoryShards:
    """Shards whose every token is another number, so that repeats and gaps can be seen."""

    def __init__(self, lengths, first=0, name="memory"):
        self.name = name
        self.lengths = np.asarray(lengths, np.int64)
        self.num_records = len(self.lengths)
        self.tokens = int(self.lengths.sum())
        self.digest = hashlib.sha256(name.encode()).hexdigest()
        self._starts = first + np.concatenate([[0], np.cumsum(self.lengths)])

    def read(self, record):
        return np.arange(self._starts[record], self._starts[record + 1], dtype=np.int32)


def task_named(name, glob="", **fields):
    source = SourceConfig("files", name, glob) if glob else SourceConfig("python_stdlib", name)
    return TaskConfig(name, source, **fields)


def data_of(rates, sequence_length=16, batch_size=8, **fields):
    parts = tuple(MixtureComponent(task_named(name), rate) for name, rate in rates.items())
    return DataConfig(parts, sequence_length, batch_size, **fields)


def streams_of(sizes, seed=0):
    """Streams of distinct tokens by source name; source i counts from i million."""
    streams = {}
    for i, (name, tokens) in enumerate(sizes.items()):
        lengths = np.random.default_rng(i).integers(5, 60, size=tokens)
        cut = int(np.searchsorted(np.cumsum(lengths), tokens))
        lengths = lengths[: cut + 1]
        lengths[-1] -= lengths.sum() - tokens
        key = task_named(name).name
        streams[key] = TokenStream(MemoryShards(lengths[lengths > 0], first=1_000_000 * i, name=name), seed)
    return streams


CODE = '''def area(width, height):
\t"""Tabs, runs of    spaces, and text that is no ASCII: \N{SNOWMAN} \N{LATIN SMALL LETTER E WITH ACUTE}."""
\treturn width  *  height  # {number}


class Shape_{number}:
    def __init__(self, {word}={number}):
        self.{word} = [{number}] * {number}
'''


def code_documents(count, seed=0):
    """Small programs with different words, so that none is a near duplicate of another."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(60)]
        body = "\n".join(
            f"    {a} = {b} + {c}(x)" for a, b, c in zip(words[::3], words[1::3], words[2::3], strict=True)
        )
        yield CODE.replace("{number}", str(number)).replace("{word}", words[0]) + f"\ndef {words[0]}():\n{body}\n"
