"""A corpus, a model and a study so small that a run takes a second; and what of a store must be bitwise equal."""

import dataclasses
import json

import numpy as np

from models.config import ModelConfig
from scaling import storage
from scaling.branches.decay import DecaySpec
from scaling.config import (
    DataConfig,
    DecayConfig,
    ExecutionConfig,
    MixtureComponent,
    Parent,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    TaskConfig,
    to_json,
)
from scaling.data import shards
from scaling.data.writer import SplitWriter
from scaling.execute import Executor
from scaling.records import RunStore
from scaling.run import Runner
from scaling.study import EvaluationConfig, RunSpec, Study

CODE = TaskConfig("tiny_code", SourceConfig("files", "code", "none/*.txt"))
PROSE = TaskConfig("tiny_prose", SourceConfig("files", "prose", "none/*.txt"))
MODEL = ModelConfig(259, num_layers=2, d_model=8, num_heads=2, num_kv_heads=1, head_dim=4, d_ff=16, mup_base_width=8)
DATA = DataConfig((MixtureComponent(CODE),), sequence_length=16, batch_size=4)
MIXED = DataConfig((MixtureComponent(CODE, 0.5), MixtureComponent(PROSE, 0.5)), sequence_length=16, batch_size=4)
TRUNK = RunConfig(MODEL, DATA, ScheduleConfig(peak=0.01, warmup_steps=5))
EXECUTION = ExecutionConfig(steps_per_dispatch=4)


def write_corpus(task, data_dir, seed=0, documents=60):
    """Prepares generated text the way `windtunnel data prepare` leaves it, without seqio."""
    folder = data_dir / shards.task_id(task)
    folder.mkdir(parents=True)
    table = np.array([0] * shards.BYTE_OFFSET + [1] * 256)
    np.save(folder / shards.TOKEN_BYTES, table)
    digest = shards.file_sha256(folder / shards.TOKEN_BYTES)
    rng = np.random.default_rng(seed)
    words = [bytes(rng.choice(list(b"abcdefgh"), 5)) for _ in range(40)]
    splits = {}
    for split, count in (("train", documents), ("heldout", 6)):
        writer = SplitWriter(folder, split, "bytes", table, digest)
        for _ in range(count):
            text = b" ".join(words[i] for i in rng.integers(0, len(words), 120))
            tokens = np.frombuffer(text, np.uint8).astype(np.int64) + shards.BYTE_OFFSET
            writer.add(np.append(tokens, shards.EOS), record_tokens=256)
        splits[split] = writer.finish(units=count)
    files = {p.name: shards.FileRecord(p.stat().st_size, shards.file_sha256(p)) for p in folder.iterdir()}
    manifest = shards.Manifest(
        task, "bytes", len(table), digest, heldout_units=(), dropped={}, notes=(), versions={}, files=files, **splits
    )
    storage.write_json(folder / shards.MANIFEST, to_json(manifest))


def decay(total_steps, **fields):
    return DecaySpec(total_steps, share=0.2, **fields)


BRANCHES = (decay(30), decay(50))


def study(branches=BRANCHES, config=TRUNK, name="tiny", label="t", tasks=(CODE,), **fields):
    """One trunk with decay branches, by default from steps 24 and 40."""
    evaluation = EvaluationConfig(tasks, tokens=640, sequence_length=16)
    fields = {"execution": EXECUTION} | fields
    return Study(name, "does it hold?", (RunSpec(label, config, tuple(branches)),), evaluation, **fields)


def changed(**fields):
    """The trunk with some fields changed."""
    return dataclasses.replace(TRUNK, **fields)


def whole(config, start, steps):
    """The uninterrupted run with the schedule of a trunk's branch."""
    schedule = dataclasses.replace(config.schedule, decay=DecayConfig(start, steps))
    return dataclasses.replace(config, schedule=schedule)


def executor(wanted, root, data_dir, **runner):
    return Executor(wanted, Runner(RunStore(root), data_dir, wanted.execution, **runner), lambda text: None)


def execute(wanted, root, data_dir, **runner):
    """Runs a study to its end in this process."""
    made = executor(wanted, root, data_dir, **runner)
    made.run()
    return made


def runs_by_label(made):
    return {entry.label: entry.run for entry in made.entries}


def log(root, run):
    """A run's log rows without what is measured."""
    return [without_measured(row) for row in storage.read_lines(RunStore(root).log_path(run))]


def without_measured(row):
    return {key: value for key, value in row.items() if key != "measured"}


def outcome(root):
    """Everything of a store that must come out bitwise equal: results, evaluations and logs of every run."""
    found = {}
    for folder in sorted((root / "runs").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        evaluations = folder / "evaluations.jsonl"
        text = evaluations.read_text() if evaluations.exists() else ""
        found[folder.name] = without_measured(result), text, log(root, folder.name)
    return found


def assert_same_outcome(root, other):
    mine, theirs = outcome(root), outcome(other)
    assert mine.keys() == theirs.keys()
    for run in mine:
        for part, expected in zip(mine[run], theirs[run], strict=True):
            assert part == expected
        steps = [row["step"] for row in mine[run][2]]
        assert steps == list(range(steps[0], steps[0] + len(steps)))  # no hole, no repeat


def branch_config(parent, run, decay, data=None):
    """A decay branch's config from its `DecayConfig`, without going through a study's shares."""
    schedule = dataclasses.replace(parent.schedule, decay=decay)
    return dataclasses.replace(
        parent, data=data or parent.data, schedule=schedule, parent=Parent(run, decay.start), branch="decay"
    )
