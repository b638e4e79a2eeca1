import dataclasses

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from models.config import ladder_model
from scaling.accounting import parameter_counts
from scaling.config import MixtureComponent, SourceConfig, TaskConfig, VocabularyConfig
from scaling.errors import UserError
from scaling.recipe import Budget, Ladder

CODE = (MixtureComponent(tiny.CODE),)


@given(st.sampled_from([16, 24, 32, 48, 64]), st.sampled_from([0.05, 0.1, 0.5]))
def test_every_branch_is_as_long_as_its_budget_says_to_half_a_step(width, share):
    ladder = Ladder(CODE, tuple(Budget(x) for x in (20, 40, 80)), share=share)
    run = ladder.run(width)
    N = parameter_counts(run.config.model).non_embedding
    per_step = run.config.data.tokens_per_step
    for branch, multiple in zip(run.branches, (20, 40, 80), strict=True):
        assert abs(branch.total_steps * per_step - multiple * N) <= per_step / 2
        assert abs(branch.decay_steps - share * branch.total_steps) <= 0.5
        assert branch.label == f"{multiple}N"
    assert abs(run.config.schedule.warmup_steps * per_step - N) <= per_step / 2


@pytest.mark.parametrize(("width", "rows"), [(16, 4), (24, 6), (64, 16), (4, 1)])
def test_the_batch_grows_with_the_width(width, rows):
    assert Ladder(CODE, (Budget(20),)).trunk(width).data.batch_size == rows


def test_three_ways_to_say_one_budget():
    model = ladder_model(32, 259)
    N = parameter_counts(model).non_embedding
    said = [Budget(20), Budget(20 * N, "tokens"), Budget(6 * N * 20 * N, "flops")]
    assert [budget.tokens(model, 128) for budget in said] == pytest.approx([20 * N] * 3)
    assert len({budget.label for budget in said}) == 3


@pytest.mark.parametrize("shape", ["one_minus_sqrt", "linear"])
def test_a_whole_run_is_trunk_and_branch_in_one(shape):
    ladder = Ladder(CODE, (Budget(20), Budget(40)), share=0.2, shape=shape, learning_rate=0.03)
    run, whole = ladder.run(16, seed=3), ladder.whole(16, Budget(40), seed=3)
    branch = run.branches[1].config(run.config, "")
    assert whole == dataclasses.replace(branch, parent=None, branch="")
    assert whole.schedule.decay.start + whole.schedule.decay.steps == run.branches[1].stop


def bpe(name, **fields):
    source = SourceConfig("files", name, "none/*.txt")
    return MixtureComponent(TaskConfig(name, source, VocabularyConfig("sentencepiece", **fields)))


def test_vocabulary_is_the_tasks():
    assert Ladder(CODE, (Budget(20),)).vocab_size() == 259
    shared = (bpe("a", size=500), bpe("b", model_file="a/vocabulary.model"))
    assert Ladder(shared, (Budget(20),)).trunk(16).model.vocab_size == 500
    with pytest.raises(UserError, match=r"must share a vocabulary, but have sizes \[259, 500\]"):
        Ladder((*CODE, bpe("a", size=500)), (Budget(20),)).vocab_size()
    with pytest.raises(UserError, match="no task of this mixture says how large its vocabulary is"):
        Ladder((bpe("b", model_file="a/vocabulary.model"),), (Budget(20),)).vocab_size()


def test_seeds_differ_in_the_seed_alone():
    ladder = Ladder(CODE, (Budget(20),))
    one, two = ladder.run(16, 0), ladder.run(16, 1)
    assert (one.label, two.label) == ("w16", "w16-seed1")
    assert one.config != two.config
    assert ladder.trunk(16, 0) == ladder.trunk(16)
