"""The command line, `windtunnel COMMAND`. Every import that takes time is inside a command."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from scaling import environment
from scaling.errors import UserError

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
RunsDir = Annotated[Path, tyro.conf.arg(help="where runs and studies live")]
DataDir = Annotated[Path, tyro.conf.arg(help="where prepared corpora live")]

_RUNS, _DATA = Path("runs"), Path("data")
_COMPUTING = ("plan", "run", "fit", "suggest", "doctor")  # commands whose process is prepared for it


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
        "status": status,
        "fit": fit,
        "predict": predict,
        "allocate": allocate,
        "suggest": suggest,
        "data": data,
        "doctor": doctor,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="windtunnel", description="Scaling-law studies of language models."
        )
    except UserError as error:
        print(f"windtunnel: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("windtunnel: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
