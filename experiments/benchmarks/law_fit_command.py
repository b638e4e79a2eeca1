"""The whole command in the fitting benchmark: `windtunnel fit` as a process, from a cold and from a warm cache."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scaling.errors import UserError

ROOT = Path(__file__).parents[2]


def command(path: Path, cache: Path) -> dict[str, float | None]:
    """Seconds of `windtunnel fit --no-figures` as a process, and until it says that it is fitting.

    Args:
        path: the table.
        cache: where compiled programs are kept; empty for a cold start.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environ |= {"XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    arguments = ["fit", str(path), "--no-figures", "--out-dir", str(cache / "law")]
    began, started = time.perf_counter(), None
    call = [sys.executable, "-m", "experiments.cli", *arguments]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if started is None and "itting" in line:
                started = time.perf_counter() - began
    if process.returncode != 0:
        raise UserError(f"benchmark: windtunnel fit ended with code {process.returncode}: see its message above")
    return {"seconds": time.perf_counter() - began, "fitting_after": started}


def commands(path: Path, repeats: int) -> dict[str, dict[str, float | None]]:
    """The command with an empty cache of compiled programs and with a filled one, the median run of `repeats` each."""
    runs: dict[str, list[dict[str, float | None]]] = {"command cold": [], "command warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for name in runs:
                runs[name].append(command(path, Path(cache)))
    return {name: sorted(found, key=lambda run: run["seconds"] or 0.0)[len(found) // 2] for name, found in runs.items()}
