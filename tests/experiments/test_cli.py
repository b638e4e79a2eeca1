import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from experiments import cli
from scaling.records import RunStore, status

HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorflow", "seqio", "pandas", "matplotlib", "scipy")


def test_help_of_every_command_loads_nothing_heavy():
    code = f"""
import contextlib, io, sys
from experiments.cli import main
for name in ",plan,run,tune,status,fit,predict,allocate,suggest,data,bench,doctor".split(","):
    sys.argv = ["windtunnel", *filter(None, [name]), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as ended:
            assert ended.code == 0
    assert "usage: windtunnel" in out.getvalue(), out.getvalue()
print([name for name in {HEAVY} if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def windtunnel(monkeypatch, capfd, tmp_path, data_dir):
    """Runs a command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("WINDTUNNEL_ENVIRONMENT", "1")  # do not start this process anew

    def run(*words):
        folders = ["--runs-dir", str(tmp_path / "runs")] if words[0] != "data" else []
        folders += ["--data-dir", str(data_dir)] if words[0] != "status" else []
        monkeypatch.setattr(sys, "argv", ["windtunnel", *map(str, words), *folders])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        printed = capfd.readouterr()  # of child processes too
        return code, printed.out, printed.err

    return run


SHORT = "tiny.study((tiny.decay(30),))"
BAD = {
    "share": ("tiny.study((tiny.DecaySpec(50, share=1.5),))", "decay share 1.5 of branch '50': it must lie between 0"),
    "too many tokens": ("tiny.study((tiny.decay(5000),))", "epochs where data.max_epochs is 1; set max_epochs to"),
    "vocabulary": (
        "tiny.study(config=tiny.changed(model=tiny.dataclasses.replace(tiny.MODEL, vocab_size=300)))",
        "model.vocab_size is 300, but the shards of task 'tiny_code' have 259 token ids: set vocab_size to that",
    ),
    "unknown key": (
        "tiny.decay(30, shaer=0.1)",
        "unexpected keyword argument 'shaer' (it has total_steps, share, shape, final, data, label, branches)",
    ),
    "warm-up": (
        "tiny.study(config=tiny.changed(schedule=tiny.ScheduleConfig(0.1, 99)))",
        "decay starts at step 24, but the warm-up ends at step 99: start the decay later or shorten the warm-up",
    ),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("case", BAD)
def test_bad_study_is_one_line_and_exit_code_2(windtunnel, study_file, command, case):
    study, words = BAD[case]
    code, _, error = windtunnel(command, study_file(study))
    assert code == 2
    assert error.startswith("windtunnel: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [("run",), ("plan",), ("data", "prepare"), ("data", "show")])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no study"),
        ("def stud():\n    pass\n", "has no function study(): write one"),
        ("def study()\n    pass\n", "study.py:1: SyntaxError: expected ':'"),
    ],
)
def test_file_that_is_no_study_is_one_line_and_exit_code_2(windtunnel, tmp_path, words, text, expected):
    path = tmp_path / "study.py"
    if text is not None:
        path.write_text(text)
    code, _, error = windtunnel(*words, path)
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error


def test_status_before_a_plan_says_what_makes_one(windtunnel):
    code, _, error = windtunnel("status", "quickstart")
    assert (code, error.count("\n")) == (2, 1)
    assert "`windtunnel plan quickstart` makes one" in error


def test_run_status_and_run_again(windtunnel, study_file, tmp_path):
    path = study_file(SHORT)
    code, out, _ = windtunnel("run", path, "--no-report")
    assert code == 0
    assert "trained in" in out
    code, out, _ = windtunnel("status", "tiny")
    assert "2 complete" in out
    before = tiny.outcome(tmp_path / "runs")
    code, out, _ = windtunnel("run", path, "--no-report")
    assert code == 0
    assert "nothing left to train of its 2 runs" in out
    assert tiny.outcome(tmp_path / "runs") == before


TWO = "(tiny.decay(30), tiny.decay(30, shape='linear', label='linear'))"


def test_plan_says_which_runs_train_as_one_program(windtunnel, study_file):
    code, out, _ = windtunnel("plan", study_file(f"tiny.study({TWO})"), "--no-calibrate")
    said = " ".join(out.split())
    assert code == 0
    assert "Group 2, t decay x2, trains as one program on 2 devices." in said
    one = f"tiny.study({TWO}, execution=tiny.dataclasses.replace(tiny.EXECUTION, devices=2, run_axis='vmap'))"
    said = " ".join(windtunnel("plan", study_file(one), "--no-calibrate")[1].split())
    assert "Group 2, t decay x2, trains as one program, 2 runs side by side." in said
    assert windtunnel("status", "tiny")[0] == 0


def test_failed_run_is_named_with_its_reason_and_its_branches(windtunnel, study_file, tmp_path):
    hot = "tiny.study(config=tiny.changed(schedule=tiny.ScheduleConfig(1e20, 1)))"
    _, out, _ = windtunnel("run", study_file(hot), "--no-report")
    said = " ".join(out.split())
    assert "t failed: non-finite loss" in said
    assert "t/30 failed: left out, because t failed: non-finite loss" in said
    assert {row.state for row in status(RunStore(tmp_path / "runs"), "tiny").values()} == {"failed"}
    assert "nothing left to train" in windtunnel("run", study_file(hot), "--no-report")[1]


def test_a_run_whose_end_is_not_finite_is_named_and_the_exit_code_is_1(windtunnel, study_file, monkeypatch):
    from scaling.run import Runner

    original = Runner.state_at

    def broken(runner, config, run, step):
        stored = original(runner, config, run, step)
        if not config.branch:
            return stored
        params = jax.tree.map(lambda x: x * np.float32("nan"), stored.state.params)
        return stored._replace(state=stored.state._replace(params=params))

    monkeypatch.setattr(Runner, "state_at", broken)
    for _ in range(2):  # trained, and found there
        code, out, _ = windtunnel("run", study_file(SHORT), "--no-report")
        assert code == 1
        assert "t/30 failed: the loss on tiny_code after step 30 is not finite" in " ".join(out.split())
    assert "1 failed" in windtunnel("status", "tiny")[1]


BLOCKER = """
import atexit, importlib.machinery, pathlib, sys

find_spec = importlib.machinery.PathFinder.find_spec
absent = ("tensorflow", "seqio", "tensorflow_text", "tensorflow_datasets")
importlib.machinery.PathFinder.find_spec = staticmethod(
    lambda name, *words: None if name.split(".")[0] in absent else find_spec(name, *words)
)
try:
    import seqio
except ModuleNotFoundError:
    atexit.register(lambda: pathlib.Path(__file__).with_name("loaded").write_text(" ".join(sys.modules)))
"""


def test_training_needs_neither_tensorflow_nor_seqio(start, study_file, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKER)
    process = start(study_file(SHORT), tmp_path / "runs", PYTHONPATH=str(site))
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out
    loaded = (site / "loaded").read_text().split()
    assert "scaling.train" in loaded
    assert [name for name in loaded if name.split(".")[0] in ("tensorflow", "seqio")] == []
    assert {row.state for row in status(RunStore(tmp_path / "runs"), "tiny").values()} == {"complete"}


@pytest.mark.slow
def test_empty_corpus_is_one_line_and_exit_code_2(windtunnel, study_file):
    empty = "tiny.study(config=tiny.changed(data=tiny.DataConfig((tiny.MixtureComponent(E),), 16, 4)))"
    before = "E = tiny.TaskConfig('nothing', tiny.SourceConfig('files', 'code', '/nowhere/at/all/*.txt'))"
    code, _, printed = windtunnel("run", study_file(empty, before))
    error = printed.strip().splitlines()
    assert code == 2
    assert "nowhere/at/all" in error[-1]
    assert not any("Traceback" in line for line in error)
