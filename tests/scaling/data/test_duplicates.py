import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.duplicates import SHINGLE_WORDS, Duplicates, shingles

words = st.lists(st.text("abcdefgh", min_size=1, max_size=8), max_size=40)


def reference_shingles(text):
    parts = text.split()
    width = min(SHINGLE_WORDS, len(parts))
    return [" ".join(parts[i : i + width]) for i in range(len(parts) - width + 1)] if parts else []


@given(words, words)
def test_hashes_are_equal_exactly_where_shingles_are(first, second):
    a, b = " ".join(first), "\t" + "\n  ".join(second) + " "
    expected = reference_shingles(a) + reference_shingles(b)
    hashes = np.concatenate([shingles(a.encode()), shingles(b.encode())])
    assert len(hashes) == len(expected)
    assert len(set(hashes.tolist())) == len(set(expected))
    assert len(set(zip(hashes.tolist(), expected, strict=True))) == len(set(expected))


def text_with(replaced, rng, length=2000):
    """Two texts, the second with this share of its words replaced, at random places."""
    words = [f"w{number}" for number in rng.integers(0, 10**6, length)]
    other = [f"v{number}" if rng.random() < replaced else word for number, word in enumerate(words)]
    return " ".join(words), " ".join(other)


def jaccard(a, b):
    a, b = set(reference_shingles(a)), set(reference_shingles(b))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(("replaced", "near"), [(0.005, True), (0.012, True), (0.05, False), (0.2, False)])
def test_near_duplicates_are_those_above_the_threshold(replaced, near):
    rng = np.random.default_rng(0)
    for _ in range(10):
        first, second = text_with(replaced, rng)
        assert (jaccard(first, second) > 0.8) == near
        duplicates = Duplicates(0.8)
        assert duplicates.check(first.encode()) is None
        assert duplicates.check(second.encode()) == ("near_duplicate" if near else None)


def test_exact_duplicates_are_told_apart_and_alone_with_threshold_one():
    first, second = (text.encode() for text in text_with(0.001, np.random.default_rng(0)))
    for threshold, expected in ((0.8, "near_duplicate"), (1.0, None)):
        duplicates = Duplicates(threshold)
        assert duplicates.check(first) is None
        assert duplicates.check(first) == "exact_duplicate"
        assert duplicates.check(second) == expected


def test_a_dropped_twin_does_not_drop_its_own_twins():
    rng = np.random.default_rng(0)
    first, second = text_with(0.018, rng)
    third = " ".join(word if rng.random() > 0.018 else "z" for word in second.split())
    assert jaccard(second, third) > 0.8 > 0.75 > jaccard(first, third)
    duplicates = Duplicates(0.8)
    told = [duplicates.check(text.encode()) for text in (first, second, third)]
    assert told == [None, "near_duplicate", None]
