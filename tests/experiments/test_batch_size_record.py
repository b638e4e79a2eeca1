"""From a store of runs to the record of the batch-size law, and to its figure."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.figures import batch_size_law as figure
from analysis.plots.batch_size import batch_size_law
from experiments import batch_size_law as study
from experiments.batch_size_record import read, record
from scaling import storage
from scaling.accounting import parameter_counts
from scaling.errors import UserError
from scaling.records import ResultRow, RunStore
from scaling.study import plan_study

FLOOR, SPEED = 140.0, 0.3  # loss A s^-g + q / B after s steps: the best batch is q (1 + 1/g) / L exactly
BEST = FLOOR * (1 + 1 / SPEED)
BATCHES = (64, 128, 256, 512, 1024, 2048)
SIZES = {2000: 9.0, 4000: 8.0}  # N: A


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two sizes, six batches, three seeds, 80 tokens per parameter, the last tenth a decay that halves the noise."""
    store, entries = RunStore(tmp_path_factory.mktemp("store")), []
    rng = np.random.default_rng(0)
    for n, amplitude in SIZES.items():
        for batch in BATCHES:
            for seed in range(3):
                run, steps = f"{n}-{batch}-{seed}", 80 * n // batch
                done = np.maximum(np.arange(steps), 0.5)
                loss = amplitude * done**-SPEED + FLOOR / batch
                loss[int(0.9 * steps) :] -= FLOOR / batch / 2
                loss += rng.normal(0, 4 / np.sqrt(batch), steps)
                rows = [
                    {"step": i + 1, "tokens": (i + 1) * batch, "loss": float(x), "measured": {}}
                    for i, x in enumerate(loss)
                ]
                store.run_dir(run).mkdir(parents=True)
                storage.write_lines(store.log_path(run), rows)
                config = {"data": {"sequence_length": 32, "batch_size": batch // 32}, "schedule": {"peak": 0.01}}
                store.write_config(run, {"config": config})
                end = amplitude * steps**-SPEED + FLOOR / batch / 2
                total = steps * batch
                store.write_result(ResultRow(run, "complete", steps, total, total, 0.1, end, None, [], {}, {}))
                evaluation = {"step": steps, "digest": "d", "domain": "code"}
                losses = dict.fromkeys(("nats_per_token", "nats_per_byte", "bits_per_byte"), end)
                store.add_evaluations(run, [evaluation | losses])
                entries.append(
                    {
                        "label": run,
                        "kind": "whole",
                        "run": run,
                        "trunk": run,
                        "trunk_label": run,
                        "is_point": True,
                        "seed": seed,
                        "learning_rate": 0.01,
                        "N": n,
                        "N_total": n,
                        "start": 0,
                        "stop": steps,
                        "D_total": total,
                        "D_stable": int(0.9 * steps) * batch,
                        "D_decay": 0,
                        "flops": {"6ND": 6.0 * n * total},
                    }
                )
    plan = {"study": "planted", "question": "q?", "evaluation_digest": "d", "domains": ["code"]}
    plan |= {"bytes_per_token": 1.0, "law": None, "entries": entries}
    storage.write_json(store.study_dir("planted") / "plan.json", plan)
    return store


@pytest.fixture(scope="module")
def recorded(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    return folder, record(read(store, "planted"), folder, replicates=300)


def test_the_planted_law_is_recorded(recorded):
    _, found = recorded
    low, high = found["law"]["b_interval"]
    assert low < 1 < high
    assert high - low < 1
    loss = found["minicpm"]["at_loss"]
    band = found["law"]["band"]
    assert np.interp(loss, band["loss"], band["batch"]) == pytest.approx(BEST / loss, rel=0.25)
    assert [size["N"] for size in found["by_size"]] == list(SIZES)
    assert found["parabolas"] == found["minima"] + sum(found["left_out"].values())
    converted = 3.4 * 1.21e9 / (3.4 * loss) ** 6.24
    assert found["minicpm"]["over_ours"] == pytest.approx(converted / (found["law"]["a"] / loss ** found["law"]["b"]))


def test_the_decay_is_no_part_of_the_curves_and_gives_the_ends(store, recorded):
    folder, _ = recorded
    curves, ends = pd.read_csv(folder / "curves.csv"), pd.read_csv(folder / "ends.csv")
    for n in SIZES:
        size = curves[curves["N"] == n]
        assert size["tokens"].min() >= 2 * n
        assert size["tokens"].max() <= 72 * n + 1
    best = pd.read_csv(folder / "best_at_end.csv").set_index("N")
    for n, amplitude in SIZES.items():  # half the noise: the best batch is half as large, at the loss that it ends at
        batch = np.geomspace(64, 2048, 2000)
        loss = amplitude * (80 * n / batch) ** -SPEED + FLOOR / batch / 2
        assert best["batch"][n] == pytest.approx(batch[loss.argmin()], rel=0.15)
        assert best["loss"][n] == pytest.approx(loss.min(), rel=0.01)
    assert len(ends) == 36


def test_the_record_repeats_and_says_where_it_comes_from(store, recorded, tmp_path):
    folder, found = recorded
    record(read(store, "planted"), tmp_path, replicates=300)
    for path in folder.glob("*.csv"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "law.json").read_bytes() == (folder / "law.json").read_bytes()
    assert found["runs"]["2000-64-0"] == "2000-64-0"
    assert {"commit", "versions", "replicates", "clusters", "bytes_per_token"} <= set(found)


def test_an_unfinished_run_is_named(store, tmp_path):
    other = RunStore(tmp_path)
    with pytest.raises(UserError, match="no plan of study 'batch_size_law'"):
        read(other)
    plan = json.loads((store.study_dir("planted") / "plan.json").read_text())
    storage.write_json(other.study_dir("planted") / "plan.json", plan)
    with pytest.raises(UserError, match="36 runs of planted are not finished, 2000-64-0 first"):
        read(other, "planted")


def test_the_figure_shows_minima_and_laws_where_they_are(recorded):
    folder, law = recorded
    tables = {name: figure.read_table(folder / f"{name}.csv") for name in figure.TABLES}
    axes = batch_size_law(tables, law).axes
    against_loss, against_tokens = axes[-2:]
    used = tables["minima"][tables["minima"]["problem"] == ""]
    for panel, column in ((against_loss, "level"), (against_tokens, "tokens")):
        drawn = np.concatenate([np.array(bars.lines[0].get_xydata()) for bars in panel.containers[: len(SIZES)]])
        assert np.sort(drawn, 0) == pytest.approx(np.sort(used[[column, "batch"]].to_numpy(), 0))
    theirs = next(line for line in against_loss.lines if line.get_linestyle() == "-.")
    loss, batch = theirs.get_xdata()[0], theirs.get_ydata()[0]
    assert batch == pytest.approx(3.4 * 1.21e9 / (3.4 * loss) ** 6.24)
    parabolas = [line for panel in axes[2:4] for line in panel.lines if len(line.get_xdata()) == 60]
    assert len(parabolas) == len(used)
    assert sorted(line.get_ydata().min() for line in parabolas) == pytest.approx(sorted(used["tokens"]), rel=0.01)


def test_the_command_draws_beside_the_record(recorded):
    folder, _ = recorded
    assert [path.name for path in figure.main(folder)] == ["batch_size_law.png", "batch_size_law.pdf"]
    with pytest.raises(UserError, match="no record in nowhere"):
        figure.main(folder.__class__("nowhere"))


def test_runs_of_a_size_differ_in_their_batch_alone():
    planned = plan_study(study.study())
    assert len(planned) == len(study.LENGTHS) * len(study.ROWS) * len(study.SEEDS)
    for entry in planned:
        n, config = parameter_counts(entry.config.model).non_embedding, entry.config
        tokens, decay = config.data.tokens_per_step, config.schedule.decay
        multiple = study.LENGTHS[config.model.d_model].value
        assert entry.stop * tokens == pytest.approx(multiple * n, abs=tokens)
        assert config.schedule.warmup_steps * tokens == pytest.approx(n, abs=tokens)
        assert decay.steps * tokens == pytest.approx(0.1 * multiple * n, abs=tokens)
        assert config.schedule.peak == 0.015
