import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
STUDY = """
import sys
sys.path.insert(0, {folder!r})
import tiny
{before}
def study():
    return {study}
"""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A compilation cache for the processes that tests start."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture
def study_file(tmp_path):
    """Writes a study file: an expression over `tiny`, and what is to be done before."""

    def write(study="tiny.study()", before="", name="study.py"):
        path = tmp_path / name
        path.write_text(STUDY.format(folder=str(TESTS), study=study, before=before))
        return path

    return write


@pytest.fixture
def start(data_dir, compiled):
    """Starts `windtunnel run` on a study file in a process of its own."""
    started = []

    def run(study, runs_dir, **environment):
        command = [sys.executable, "-m", "experiments.cli", "run", str(study), "--no-report"]
        command += ["--runs-dir", str(runs_dir), "--data-dir", str(data_dir)]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | environment
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()
