"""A run's name is the hash of its mathematics; the code that trained it is recorded beside, as provenance."""

import functools
import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.config import DataConfig, RunConfig, canonical, to_json
from scaling.environment import versions

# Raised when the engine's mathematics changes, so that old runs are not taken for new ones.
MATHEMATICS = 1


def identity(config: RunConfig, digests: Mapping[str, str]) -> dict[str, Any]:
    """What the hash covers: model, optimiser, schedule, seed, parent and step, and what is read.

    Of the data it covers rates, row length, batch size, and of each task the name (sources take turns in the order of
    their names) and the digest of its training shards, which stands for its definition: where the text lies and what
    its domain is called changes no run. How many epochs are allowed is a permission and not in it.

    Args:
        config: the run.
        digests: content digest of the training shards by task name.
    """
    plain = to_json(config)
    plain["data"] = _data_identity(config.data, digests)
    return {"mathematics": MATHEMATICS, **plain}


def _data_identity(data: DataConfig, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "mixture": [[component.task.name, digests[component.task.name], component.rate] for component in data.mixture],
        "sequence_length": data.sequence_length,
        "batch_size": data.batch_size,
    }


def run_id(config: RunConfig, digests: Mapping[str, str]) -> str:
    """The run's id: 16 hexadecimal digits of the SHA-256 of its identity."""
    return hashlib.sha256(canonical(identity(config, digests)).encode()).hexdigest()[:16]


@functools.cache  # the code that runs is the code that was there when the process began
def provenance() -> dict[str, Any]:
    """Where numbers come from: the code's commit (with a mark when files differ from it) and versions."""
    root = Path(__file__).resolve().parent.parent
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
        commit: str | None = described.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"commit": commit, "mathematics": MATHEMATICS, "versions": versions()}
