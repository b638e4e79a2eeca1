"""The command line, `windtunnel COMMAND`. Every import that takes time is inside a command."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from scaling import environment
from scaling.errors import exit_on_user_error

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
RunsDir = Annotated[Path, tyro.conf.arg(help="where runs and studies live")]
DataDir = Annotated[Path, tyro.conf.arg(help="where prepared corpora live")]

_RUNS, _DATA = Path("runs"), Path("data")
_COMPUTING = ("plan", "run", "tune", "fit", "suggest", "bench", "doctor")  # commands whose process is prepared for it
_SPACE = ("learning_rate=1e-3:0.3", "init_std=0.01:1", "scale_emb=1:100", "scale_depth=0.2:10")


def plan(study: Name, runs_dir: RunsDir = _RUNS, data_dir: DataDir = _DATA, calibrate: bool = True) -> None:
    """Show what a study will train: the runs, their tokens, FLOPs and time. Prepares the corpus, trains nothing.

    Args:
        study: a file of experiments/ by name, or the path of a Python file with a function study().
        runs_dir: where runs and studies live.
        data_dir: where prepared corpora live.
        calibrate: time a few steps of every size for the estimate of hours.
    """
    from experiments.commands.plan import show

    show(study, runs_dir, data_dir, calibrate)


def run(study: Name, runs_dir: RunsDir = _RUNS, data_dir: DataDir = _DATA, report: bool = True) -> None:
    """Train what is missing of a study, then report. Stop it at any time; the same command goes on.

    Args:
        study: a file of experiments/ by name, or the path of a Python file with a function study().
        runs_dir: where runs and studies live.
        data_dir: where prepared corpora live; what is missing there is prepared first.
        report: fit the law and draw the figures at the end.
    """
    from experiments.commands.run import execute

    execute(study, runs_dir, data_dir, report)


def tune(
    study: Name,
    space: tuple[str, ...] = _SPACE,
    samplers: tuple[Literal["tpe", "random"], ...] = ("tpe",),
    rounds: int = 8,
    per_round: int = 8,
    finalists: int = 4,
    seeds: int = 8,
    seed: int = 0,
    runs_dir: RunsDir = _RUNS,
    data_dir: DataDir = _DATA,
) -> None:
    """Search hyper-parameters around a study's first run, and measure the best beside the study's runs.

    Stop it at any time; the same command goes on. Writes trials.csv, best.json and figures.

    Args:
        study: a file of experiments/ by name, or the path of a Python file with a function study(), of whole runs.
        space: what is searched, name=low:high each (drawn evenly over the logarithm; name=low:high:linear for even
            steps): learning_rate, init_std, scale_emb, scale_depth, weight_decay, clip_norm.
        samplers: tpe learns from the trials so far; random is the baseline.
        rounds: how often a batch of trials is asked for.
        per_round: trials of a batch, trained together.
        finalists: best trials of each search, which are trained under further seeds.
        seeds: how many further seeds choose among the finalists, and how many others then measure.
        seed: of the samplers.
        runs_dir: where runs and studies live.
        data_dir: where prepared corpora live; what is missing there is prepared first.
    """
    from experiments.commands.tune import Plan, execute
    from scaling.tuning.search import Search
    from scaling.tuning.space import parse_parameter

    parameters = tuple(map(parse_parameter, space))
    searches = tuple(Search(parameters, sampler, rounds, per_round, seed) for sampler in samplers)
    execute(study, Plan(searches, finalists, seeds), runs_dir, data_dir)


def status(study: Name, runs_dir: RunsDir = _RUNS) -> None:
    """Show the state of every run of a study.

    Args:
        study: the study's name, or the path of its file.
        runs_dir: where runs and studies live.
    """
    from experiments.commands.status import show

    show(study, runs_dir)


def data(
    action: Annotated[Literal["prepare", "show"], tyro.conf.Positional],
    study: Name,
    data_dir: DataDir = _DATA,
) -> None:
    """Prepare the corpora of a study (tokenised shards and a manifest), or show what was prepared.

    Args:
        action: prepare or show.
        study: a study by name or path.
        data_dir: where prepared corpora live.
    """
    from experiments.commands import data as command

    command.prepare(study, data_dir) if action == "prepare" else command.show(study, data_dir)


def bench(
    what: Annotated[Literal["train", "sparse_attention"], tyro.conf.Positional],
    sizes: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    torch_python: Path | None = None,
    rounds: int = 30,
    seconds: float = 1.0,
    memory: bool = False,
    rows: int | None = None,
    sequence_length: int | None = None,
    document_tokens: int | None = None,
    microbatches: int = 0,
    remat: Literal["none", "block"] = "none",
    activations: Path | None = None,
    out: Path | None = None,
) -> None:
    """Time the training step (tokens/s, utilisation of the machine's limit, peak memory), or sparse attention.

    Args:
        what: train, or sparse_attention (against dense attention: milliseconds, useful TFLOP/s, break-even length).
        sizes: of train: A (0.8M parameters), B (2.7M), ladder-WIDTH, or named models such as minicpm-0.1b; A and B if
            none. Of sparse_attention: FAMILY-LENGTHk such as minicpm4-8b-32k; a series for this device if none.
        torch_python: an interpreter that has PyTorch, to do the same in turns; without one only ours is timed.
        rounds: how many alternating rounds.
        seconds: how long a contender trains in each round.
        memory: train nothing; compile the step on abstract shapes and show what memory it needs.
        rows: of a batch, where not the size's own.
        sequence_length: of a row, where not the size's own.
        document_tokens: mean length of documents packed into a row, 0 for one a row, where not the size's own.
        microbatches: pieces of a batch, gradients summed; 0 decides by device.
        remat: block recomputes each block's activations in the backward pass.
        activations: of sparse_attention: an .npz file of a model's q [T, H, h] and k [T, K, h]; else numbers are drawn.
        out: where the figures go, as JSON; runs/bench_WHAT.json if not said.
    """
    from experiments.commands import bench as command
    from scaling.config import ExecutionConfig

    out = out or Path(f"runs/bench_{what}.json")
    if what == "sparse_attention":
        command.sparse_attention(sizes, torch_python, rounds, seconds, activations, out)
        return
    execution = ExecutionConfig(microbatches=microbatches, steps_per_dispatch=4, remat=remat)
    changes = {"batch_size": rows, "sequence_length": sequence_length, "document_tokens": document_tokens}
    shapes = command.named_shapes(sizes or ("A", "B"), changes | {"execution": execution})
    command.memory(shapes, out) if memory else command.train(shapes, torch_python, rounds, seconds, out)


def doctor() -> None:
    """Show what this machine offers and what a training process will set before it starts."""
    from experiments.commands.doctor import show

    show()


def main() -> None:
    """Entry point of `windtunnel`."""
    if set(sys.argv[1:2]) & set(_COMPUTING):
        environment.prepare()  # first of all: it starts the process anew
    from experiments.commands.fit import fit  # light, like the next two: their work is imported when it runs
    from experiments.commands.predict import allocate, predict
    from experiments.commands.suggest import suggest

    commands: dict[str, Callable[..., Any]] = {
        "plan": plan,
        "run": run,
        "tune": tune,
        "status": status,
        "fit": fit,
        "predict": predict,
        "allocate": allocate,
        "suggest": suggest,
        "data": data,
        "bench": bench,
        "doctor": doctor,
    }
    try:
        with exit_on_user_error("windtunnel: "):
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="windtunnel", description="Scaling-law studies of language models."
            )
    except KeyboardInterrupt:
        print("windtunnel: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
