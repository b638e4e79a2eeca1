import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from models import transformer
from scaling import mesh
from scaling.data.heldout import heldout_rows
from scaling.data.shards import open_prepared
from scaling.errors import UserError
from scaling.evaluate import evaluate
from scaling.objectives import next_token
from scaling.optimizers import hyper
from scaling.run import first_state, loss_fn


@pytest.fixture(scope="module")
def heldout(data_dir):
    return open_prepared(tiny.CODE, data_dir).heldout


def resolved(devices):
    execution = dataclasses.replace(tiny.EXECUTION, devices=devices)
    return mesh.resolve(execution, tiny.DATA, tiny.MODEL)


def found(shards, tokens, devices=2, sequence_length=16, loss_chunk=0):
    execution = dataclasses.replace(resolved(devices), loss_chunk=loss_chunk)
    params = first_state(tiny.TRUNK, execution).params
    loss = loss_fn(tiny.MODEL, next_token, execution)
    scalars = hyper(tiny.TRUNK.optimizer, tiny.MODEL, 0.0)
    return evaluate(params, shards, tokens, sequence_length, loss, scalars, execution)


def plain(shards, tokens, sequence_length=16):
    """Loss row by row in float64 log-probabilities, without padding, batches or devices."""
    held = heldout_rows(shards, tokens, sequence_length)
    params = first_state(tiny.TRUNK, resolved(1)).params
    logits = transformer.apply(tiny.MODEL, params, jnp.asarray(held.tokens[:, :-1]), jnp.asarray(held.segments[:, :-1]))
    logits = np.asarray(logits, np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats, counts = [], []
    for row, logp_TV in enumerate(logp):
        counted = [t for t in range(sequence_length) if held.segments[row, t + 1] == held.segments[row, t]]
        nats.append(-sum(logp_TV[t, held.tokens[row, t + 1]] for t in counted))
        counts.append(len(counted))
    return np.array(nats), np.array(counts), int(held.target_bytes.sum())


# less than one padded batch, exactly one on two devices, a batch and a rest
@pytest.mark.parametrize("rows", [1, 40, 128, 150])
@pytest.mark.parametrize("devices", [1, 2])
def test_loss_is_that_of_the_rows_one_by_one(heldout, rows, devices):
    nats, counts, size = plain(heldout, rows * 16)
    assert len(nats) == rows
    got = found(heldout, rows * 16, devices)
    mean = nats.sum() / counts.sum()
    assert got["nats_per_token"] == pytest.approx(mean, rel=1e-6)
    assert got["nats_per_byte"] == pytest.approx(nats.sum() / size, rel=1e-6)
    assert got["bits_per_byte"] == pytest.approx(nats.sum() / size / math.log(2), rel=1e-6)
    assert (got["tokens"], got["bytes"]) == (counts.sum(), size)
    if rows == 1:
        assert got["standard_error"] is None
    else:  # of a ratio of sums over rows, by the delta method
        spread = np.std(nats - mean * counts, ddof=1) * math.sqrt(rows) / counts.sum()
        assert got["standard_error"] == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("loss_chunk", [5, 48])  # a row in pieces, three rows at once
def test_chunked_logits_give_the_same_loss(heldout, loss_chunk):
    whole, chunked = (found(heldout, 40 * 16, loss_chunk=chunk) for chunk in (0, loss_chunk))
    assert chunked == pytest.approx(whole, rel=1e-6)


def test_more_than_there_is_reads_all_there_is(heldout):
    assert found(heldout, 10**9) == found(heldout, heldout.tokens)
    assert found(heldout, 10**9)["tokens"] > 0.9 * heldout.tokens


def test_less_than_a_row_is_an_error(heldout):
    with pytest.raises(UserError, match="less than one row of 16"):
        found(heldout, 15)


def test_evaluations_of_one_size_compile_once(heldout, caplog):
    with jax.log_compiles():
        for _ in range(2):
            found(heldout, 640, sequence_length=24)  # a length of its own, so that no other test has compiled it
    compiled = [record for record in caplog.records if re.match(r"Compiling jit\(by_row\)", record.getMessage())]
    assert len(compiled) == 1
