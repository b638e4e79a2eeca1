"""What commands share: opening a study, preparing its data, and numbers for people."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from scaling.data.shards import task_id
from scaling.execute import Executor
from scaling.records import RunStore
from scaling.run import Runner
from scaling.study import Study, load_study
from scaling.train import LogRow


def prepare_data(name: str, study: Study, data_dir: Path) -> None:
    """Prepares the study's tasks where they are not, by `windtunnel data prepare` in a process of its own.

    Preparing imports TensorFlow, which must not get into a training process.
    """
    if all((data_dir / task_id(task)).is_dir() for task in study.tasks()):
        return
    command = [sys.executable, "-m", "experiments.cli", "data", "prepare", name, "--data-dir", str(data_dir)]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


def executor(
    name: str,
    runs_dir: Path,
    data_dir: Path,
    progress: Callable[[str, list[LogRow]], None] = lambda run, rows: None,
    announce: Callable[[str], None] = lambda text: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Executor:
    """A study ready to be executed: loaded, its data prepared, its plan made."""
    study = load_study(name)
    prepare_data(name, study, data_dir)
    runner = Runner(RunStore(runs_dir), data_dir, study.execution, progress, stop_requested)
    return Executor(study, runner, announce)
