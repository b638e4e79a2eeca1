"""Generated key-value text: what is written twice is the same, and questions ask for what stands at their depths."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.config import KeyValueConfig, SourceConfig
from scaling.data import key_value, sources
from scaling.data.shards import BYTE_OFFSET
from scaling.errors import UserError

PAIR = re.compile(r"@([a-z]{1,2})([a-z]{4})\n")
LINES = ["import os\n", "\n", "def f(x):\n", "    return x  # @not a pair\n"]
HAYSTACK = np.frombuffer("".join(LINES * 400).encode(), np.uint8).astype(np.int32) + BYTE_OFFSET


def written(tokens):
    return bytes((tokens - BYTE_OFFSET).astype(np.uint8)).decode()


def test_a_key_has_one_value_in_a_document_and_is_repeated_as_often_as_said():
    config = KeyValueConfig(documents=20, bytes=2000, repeats=0.4)
    found = list(key_value.texts(config, LINES))
    assert len(found) == 20
    assert found == list(key_value.texts(config, LINES))
    repeated = total = 0
    for text in found:
        pairs = PAIR.findall(text)
        assert "".join(f"@{k}{v}\n" for k, v in pairs) == text  # nothing but pairs
        assert len(set(pairs)) == len({k for k, _ in pairs})
        repeated, total = repeated + len(pairs) - len(set(pairs)), total + len(pairs)
        assert 2000 <= len(text) < 2008
    assert repeated / total == pytest.approx(0.4, abs=0.05)
    assert len(set(found)) == 20


def test_documents_of_all_sizes_are_as_many_of_each_scale():
    sizes = [len(text) for text in key_value.texts(KeyValueConfig(documents=600, bytes=1024, shortest=64), LINES)]
    assert min(sizes) >= 64
    assert max(sizes) < 1024 + 8
    halved, _ = np.histogram(np.log2(sizes), bins=[6, 7, 8, 9, 10.01])
    assert (np.abs(halved - 150) < 45).all()


def test_filler_is_whole_lines_of_the_text_given_in_order():
    text = "".join(key_value.texts(KeyValueConfig(documents=30, bytes=3000, filler=0.8), LINES))
    rest = PAIR.sub("", text)
    assert set(rest.splitlines(keepends=True)) == set(LINES)
    lines = text.count("\n") - rest.count("\n"), rest.count("\n")
    assert 0.3 < lines[1] / sum(lines) < 0.5  # a share between 0 and 0.8, drawn by each document


def test_there_are_no_more_keys_than_letters_make():
    (text,) = key_value.texts(KeyValueConfig(documents=1, bytes=7000, repeats=0.0, key_letters=1), LINES)
    counts = Counter(k for k, _ in PAIR.findall(text))
    assert len(counts) == 26
    assert all(re.fullmatch("[a-z]", key) for key in counts)


def check(questions, length, rows, depths, size=8):
    """Every row ends in questions whose answers stand once above them, near the depth that is said."""
    assert questions.tokens.shape == (rows, length + 1)
    assert questions.answers.shape == (rows, depths, 4)
    for tokens, answers in zip(questions.tokens, questions.answers, strict=True):
        text = written(tokens)
        context = text[: -size * depths]
        for depth, answer in zip(questions.depths, answers, strict=True):
            start = int(answer[0]) + 1 - (size - 5)  # of the line, as a token
            line = text[start : start + size]
            key, value = PAIR.fullmatch(line).groups()
            assert value == written(tokens[answer + 1])
            assert len(re.findall(rf"@{key}[a-z]{{4}}\n", context)) == 1
            place = context.index(line) / len(context)
            yield abs(place - depth)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(300, 700), depths=st.integers(1, 8), seed=st.integers(0, 9))
def test_questions_among_pairs_are_answered_further_up_at_their_depths(length, depths, seed):
    questions = key_value.among_pairs(length, 3, depths, 2, seed)
    assert max(check(questions, length, 3, depths)) < 16 / (length - 8 * depths)
    assert PAIR.sub("", written(questions.tokens[0]))[8:] == ""  # but for the cut first line, pairs alone


@settings(max_examples=25, deadline=None)
@given(length=st.integers(400, 900), depths=st.integers(1, 8), seed=st.integers(0, 9))
def test_needles_lie_in_the_text_at_their_depths(length, depths, seed):
    questions = key_value.in_haystack(HAYSTACK, length, 3, depths, 2, seed)
    longest, needles = max(map(len, LINES)), 8 * depths
    assert max(check(questions, length, 3, depths)) < (longest + needles) / (length - needles)
    straw = PAIR.sub("", written(questions.tokens[0]))
    assert straw[:-1] == written(HAYSTACK[: len(straw) - 1])


def test_tests_are_a_function_of_their_seed():
    one, same, other = (key_value.among_pairs(300, 2, 4, 2, seed).tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    two = key_value.in_haystack(HAYSTACK, 600, 2, 4, 2, 0).tokens
    assert written(two[0])[:200] != written(two[1])[:200]  # each row another stretch


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"rows of 60 with 8 questions: that is 0 pairs"):
        key_value.among_pairs(60, 1, 8, 2, 0)
    with pytest.raises(UserError, match=r"at most 26, the keys of 1 letters"):
        key_value.among_pairs(400, 1, 8, 1, 0)
    with pytest.raises(UserError, match="no room for a haystack"):
        key_value.in_haystack(HAYSTACK, 100, 1, 8, 2, 0)


def test_a_source_strews_lines_of_modules_that_are_trained_on(monkeypatch):
    modules = [sources.Document(f"m{i}", f"line of m{i}\n" * 50, f"m{i}") for i in range(40)]
    monkeypatch.setattr(sources, "_python_stdlib", lambda skipped: iter(modules))
    config = KeyValueConfig(documents=60, bytes=500, filler=0.9)
    source = SourceConfig("key_value", "d", key_value=config)
    found = list(sources.documents(source))
    assert len(found) == len({document.unit for document in found}) == 60
    lines = set(PAIR.sub("", "".join(document.text for document in found)).splitlines())
    used = {line.removeprefix("line of ") for line in lines}
    assert used
    assert all(sources.unit_interval(module) >= 0.2 for module in used)
    assert any(sources.unit_interval(f"m{i}") < 0.2 for i in range(40))
    with pytest.raises(UserError, match="needs key_value"):
        list(sources.documents(SourceConfig("key_value", "d")))
