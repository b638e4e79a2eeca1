"""Which documents of a corpus repeat an earlier one: exactly by hash, nearly by MinHash.

Source: Broder, "On the resemblance and containment of documents" (1997); locality-sensitive hashing as in
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.
"""

import functools
import hashlib
from typing import Any, Literal

import datasketch
import numpy as np

SHINGLE_WORDS = 5
PERMUTATIONS = 128  # the estimate of a Jaccard similarity of 0.8 has a standard error of 0.035
_SCHEME = "affine32"  # how datasketch permutes 32-bit hashes
_CHUNK = 1 << 16  # shingles permuted at a time: bounds memory at 32 MiB for a document of any length
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64


class Duplicates:
    """Remembers documents and tells of each new one whether it repeats an earlier one.

    Args:
        threshold: Jaccard similarity of 5-word shingles from which on a document is a near duplicate; with 1
            only exact duplicates are told.
    """

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._kept: set[bytes] = set()
        self._sketches: list[Any] = []
        # Missing a pair is worse than looking at one too many: candidates are compared before they count.
        weights = (0.1, 0.9)
        self._index = datasketch.MinHashLSH(threshold, PERMUTATIONS, weights) if threshold < 1 else None

    def check(self, data: bytes) -> Literal["exact_duplicate", "near_duplicate"] | None:
        """Whether this document repeats an earlier one that was kept; if not, it is kept."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest in self._kept:
            return "exact_duplicate"
        if self._index is not None:
            sketch = _sketch(data)
            twins = (self._sketches[key] for key in self._index.query(sketch))
            if any(sketch.jaccard(twin) >= self._threshold for twin in twins):
                return "near_duplicate"
            self._index.insert(len(self._sketches), sketch)
            self._sketches.append(sketch)
        self._kept.add(digest)
        return None


def shingles(data: bytes) -> np.ndarray:
    """uint32 hashes of all runs of five words (of all words, where there are fewer than five).

    A word is a run of bytes without ASCII white space. Words are hashed all at once: a word's polynomial is a
    difference of prefix sums, divided (modulo 2^64) by the power where it starts.
    """
    text = np.frombuffer(data, np.uint8)
    inside = np.concatenate([[False], (text > 32) & (text != 127), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[0::2], edges[1::2]
    if len(starts) == 0:
        return np.zeros(0, np.uint32)
    powers, inverses = _powers(1 << max(10, len(data).bit_length()))
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text.astype(np.uint64) + 1) * powers[: len(text)], out=sums[1:])
    words = _mix((sums[ends] - sums[starts]) * inverses[starts])
    width = min(SHINGLE_WORDS, len(words))
    runs = np.lib.stride_tricks.sliding_window_view(words, width)
    return (_mix(runs @ powers[1 : width + 1]) >> np.uint64(32)).astype(np.uint32)


def _sketch(data: bytes) -> Any:
    """The document's MinHash."""
    sketch = datasketch.MinHash(PERMUTATIONS, hashfunc=_identity, permutations=_permutations(), scheme=_SCHEME)
    hashes = shingles(data)
    for start in range(0, len(hashes), _CHUNK):
        sketch.update_batch(hashes[start : start + _CHUNK])
    return datasketch.LeanMinHash(sketch)


def _identity(value: Any) -> Any:
    return value


@functools.cache
def _permutations() -> np.ndarray:
    permutations: np.ndarray = datasketch.MinHash(PERMUTATIONS, scheme=_SCHEME).permutations
    return permutations


@functools.cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 .. count-1 of the base and of its inverse, modulo 2^64."""
    base, inverse = np.ones(count, np.uint64), np.ones(count, np.uint64)
    base[1:], inverse[1:] = _BASE, pow(_BASE, -1, 1 << 64)
    return np.multiply.accumulate(base), np.multiply.accumulate(inverse)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
