"""Loss by position and retrieval, on models that are known: a table of losses, and ones that look answers up."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny

from scaling import long_context, mesh
from scaling.config import RetrievalConfig, VocabularyConfig
from scaling.data.heldout import HeldoutRows, heldout_rows
from scaling.data.shards import BYTE_OFFSET, open_prepared
from scaling.errors import UserError
from scaling.evaluate import evaluate
from scaling.objectives import next_token
from scaling.optimizers import hyper
from scaling.run import first_state, loss_fn, target_fn


def held(segments):
    segments = np.asarray(segments)
    return HeldoutRows(np.zeros_like(segments), segments, np.zeros_like(segments)[:, 1:])


def test_positions_count_what_is_visible_of_the_same_document():
    """Rows of 8 targets; nats are 10 times the target's place in the row, so that each can be told."""
    rows = held([[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2, 2, 2, 2]])
    nats = np.broadcast_to(10.0 * np.arange(8), (2, 8))
    found = long_context.loss_by_position(rows, 4, lambda tokens, segments: (nats, nats > 0))
    # the second row's targets 0, 1 see 1 and 2 tokens; target 2 begins a document; 3 to 7 see 1 to 5 tokens
    by_position = {1: [0, 0, 30], 2: [10, 10, 40], 3: [20, 50], 4: [30, 60], 5: [40, 70], 6: [50], 7: [60], 8: [70]}
    for row, (low, high) in zip(found, ((1, 2), (3, 4), (5, 6), (7, 8)), strict=True):
        values = by_position[low] + by_position[high]
        assert (row["first"], row["last"], row["tokens"]) == (low, high, len(values))
        assert row["nats_per_token"] == pytest.approx(np.mean(values))
    sums, counts = np.array([10.0, 80.0]), np.array([2, 4])  # of the first bin, by row
    spread = np.std(sums - 15 * counts, ddof=1) * np.sqrt(2) / 6
    assert found[0]["standard_error"] == pytest.approx(spread)
    assert found[3]["standard_error"] is None  # one row alone has targets so far in


def test_a_bin_without_targets_is_left_out():
    rows = held([[1, 1, 2, 2, 3, 3, 4, 4, 5]])
    nats = np.ones((1, 8))
    (found,) = long_context.loss_by_position(rows, 4, lambda tokens, segments: (nats, nats > 0))
    assert (found["first"], found["last"], found["tokens"]) == (1, 2, 4)


def test_bins_are_no_more_than_positions():
    nats = np.ones((1, 2))
    with pytest.raises(UserError, match="position_bins is 3: between 1 and the 2"):
        long_context.loss_by_position(held([[1, 1, 1]]), 3, lambda tokens, segments: (nats, nats > 0))


@pytest.fixture(scope="module")
def heldout(data_dir):
    return open_prepared(tiny.CODE, data_dir).heldout


def scores_of_the_tiny_model():
    execution = mesh.resolve(tiny.EXECUTION, tiny.DATA, tiny.MODEL)
    params, scalars = first_state(tiny.TRUNK, execution).params, hyper(tiny.TRUNK.optimizer, tiny.MODEL, 0.0)
    return execution, params, scalars


@pytest.mark.parametrize("loss_chunk", [0, 5])
def test_losses_by_position_sum_to_the_evaluations(heldout, loss_chunk):
    execution, params, scalars = scores_of_the_tiny_model()
    execution = dataclasses.replace(execution, loss_chunk=loss_chunk)
    scores = long_context.scorer(params, target_fn(tiny.MODEL, execution), scalars, execution)
    rows = long_context.loss_by_position(heldout_rows(heldout, 40 * 16, 16), 5, scores)
    loss = loss_fn(tiny.MODEL, next_token, execution)
    whole = evaluate(params, heldout, 40 * 16, 16, loss, scalars, execution)
    assert sum(row["tokens"] for row in rows) == whole["tokens"]
    mean = sum(row["nats_per_token"] * row["tokens"] for row in rows) / whole["tokens"]
    assert mean == pytest.approx(whole["nats_per_token"], rel=1e-5)


def test_rows_are_scored_whatever_their_number(heldout, monkeypatch):
    """In pieces of two rows a device the last one is padded, and the padding is cut off again."""
    execution, params, scalars = scores_of_the_tiny_model()
    scores = long_context.scorer(params, target_fn(tiny.MODEL, execution), scalars, execution)
    rows = heldout_rows(heldout, 7 * 16, 16)
    whole = scores(rows.tokens, rows.segments)
    monkeypatch.setattr(long_context, "_TOKENS_AT_ONCE", 32)
    for ours, theirs in zip(scores(rows.tokens, rows.segments), whole, strict=True):
        assert ours.shape == (7, 16)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


CONFIG = RetrievalConfig(lengths=(256, 512), rows=3, depths=4)


def reader(sight):
    """A model that copies what followed the last three to six tokens at their last occurrence, `sight` back at most."""

    def scores(tokens, segments):
        likeliest = np.zeros((len(tokens), tokens.shape[1] - 1), bool)
        for r, t in np.ndindex(*likeliest.shape):
            back = max(0, t - sight)
            for known in (3, 4, 5, 6) if t > 8 else ():  # before a value's first letter, its second, ...
                at = tokens[r, back : t + 1 - known].tobytes().rfind(tokens[r, t + 1 - known : t + 1].tobytes())
                if at >= 0 and at % 4 == 0:
                    likeliest[r, t] |= tokens[r, back + at // 4 + known] == tokens[r, t + 1]
        return likeliest, likeliest

    return scores


def test_who_looks_everything_up_finds_everything(heldout):
    found = long_context.retrieval(CONFIG, heldout, reader(sight=10**6))
    assert len(found) == 2 * 2 * 4
    assert {row["accuracy"] for row in found} == {1.0}
    assert {(row["test"], row["length"], row["questions"]) for row in found} == {
        (test, length, 3) for test in ("key_value", "needle") for length in (256, 512)
    }


def test_who_sees_half_the_row_finds_what_lies_in_the_later_half(heldout):
    for row in long_context.retrieval(CONFIG, heldout, reader(sight=300)):
        if row["length"] == 512:
            assert row["accuracy"] == (1.0 if row["depth"] > 0.5 else pytest.approx(0.0, abs=0.34)), row


def test_who_reads_nothing_finds_nothing(heldout):
    rows = long_context.retrieval(CONFIG, heldout, lambda tokens, _: (np.zeros(2), np.zeros(tokens[:, 1:].shape, bool)))
    assert {row["accuracy"] for row in rows} == {0.0}


def test_all_letters_but_one_are_no_answer(heldout):
    def but_the_last(tokens, segments):
        likeliest = np.ones(tokens[:, 1:].shape, bool)
        likeliest[:, :-1][tokens[:, 2:] == ord("\n") + BYTE_OFFSET] = False
        return likeliest, likeliest

    assert {row["accuracy"] for row in long_context.retrieval(CONFIG, heldout, but_the_last)} == {0.0}


def test_pieces_that_are_not_bytes_are_refused(heldout):
    task = dataclasses.replace(tiny.CODE, vocabulary=VocabularyConfig("sentencepiece", 512))
    other = types.SimpleNamespace(manifest=types.SimpleNamespace(task=task, vocab_size=512), name="pieces")
    with pytest.raises(UserError, match=r"'pieces' has a vocabulary of 512 pieces"):
        long_context.retrieval(CONFIG, other, reader(9))


def test_one_program_serves_rows_of_a_length(heldout, caplog):
    execution, params, scalars = scores_of_the_tiny_model()
    scores = long_context.scorer(params, target_fn(tiny.MODEL, execution), scalars, execution)
    rows = heldout_rows(heldout, 7 * 16, 16)
    scores(rows.tokens, rows.segments)
    with jax.log_compiles():
        long_context.scorer(params, target_fn(tiny.MODEL, execution), scalars, execution)(rows.tokens, rows.segments)
    assert not [record for record in caplog.records if "targets" in record.getMessage()]
