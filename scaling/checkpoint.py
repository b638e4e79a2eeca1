"""Checkpoints: training state, data position and provenance together, whole or not at all.

Orbax writes each step into a temporary folder and renames it, so a kill leaves no half checkpoint. It does not
notice a flipped byte, so every checkpoint has a manifest of our own, written last: SHA-256 of each file. A step
without a manifest is not there; a step that disagrees with its manifest is named, set aside and not used.
"""

import hashlib
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from scaling import storage
from scaling.errors import UserError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every save, and every error that it also raises


class Checkpoints:
    """The checkpoints of one run, by step (number of updates done).

    Whoever holds the run's lock may call everything; others may only read: `steps`, `problem`, `is_intact`,
    `restore`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._verified: set[int] = set()  # by this object, under the lock: nobody else writes meanwhile

    def _step_dir(self, step: int) -> Path:
        return self.directory / str(step)

    def _manifest(self, step: int) -> Path:
        return self.directory / f"{step}.sha256.json"

    def steps(self) -> list[int]:
        """Steps that were written to the end, ascending. Their files may still be damaged: see `problem`."""
        named = (path.name.removesuffix(".sha256.json") for path in self.directory.glob("*.sha256.json"))
        return sorted(int(name) for name in named if name.isdigit() and self._step_dir(int(name)).is_dir())

    def save(
        self, step: int, state: Any, position: dict[str, Any], provenance: dict[str, Any], keep: bool = True
    ) -> None:
        """Writes one checkpoint and returns when it is on disk; those before it that are not to be kept go.

        Args:
            step: updates done.
            state: a pytree of arrays.
            position: where the data stands (`Timeline.position`).
            provenance: execution fingerprints, commit, versions.
            keep: whether it stays; otherwise it is there for a crash only and goes when a later one is written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self._step_dir(step)
        with storage.disk_full_is_a_user_error(target):
            self._remove(step)  # what a kill left between the folder and its manifest
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                checkpointer.save(
                    target,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state),
                        position=ocp.args.JsonSave(position),
                        provenance=ocp.args.JsonSave(provenance),
                    ),
                )
        storage.write_json(self._manifest(step), {"keep": keep, "files": _digests(target)})
        self._verified.add(step)
        for earlier in self.steps():
            if earlier < step and not self._is_kept(earlier):
                self._remove(earlier)

    def keep(self, step: int) -> None:
        """Makes a checkpoint one that stays."""
        if not self._is_kept(step):
            storage.write_json(self._manifest(step), storage.read_json(self._manifest(step)) | {"keep": True})

    def problem(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files, in words, or None when they are as they were written."""
        try:
            expected = dict(storage.read_json(self._manifest(step))["files"].items())
            actual = _digests(self._step_dir(step))
        except (UserError, TypeError, KeyError, AttributeError):
            return "its manifest cannot be read"
        except FileNotFoundError as error:
            return f"{error.filename} went away"
        for name in sorted(expected.keys() | actual.keys()):
            if name not in actual:
                return f"{name} is missing"
            if name not in expected:
                return f"{name} does not belong there"
            if actual[name] != expected[name]:
                return f"{name} does not have the content that was written"
        return None

    def is_intact(self, step: int) -> bool:
        """Whether there is a checkpoint at this step whose files are as they were written."""
        return step in self.steps() and (step in self._verified or self.problem(step) is None)

    def newest(self, at_most: int | None = None) -> int | None:
        """The newest intact step (up to `at_most`). Damaged ones are named in a warning and set aside."""
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            problem = None if step in self._verified else self.problem(step)
            if problem is None:
                self._verified.add(step)
                return step
            aside = self._step_dir(step).with_name(f"damaged-{step}")
            shutil.rmtree(aside, ignore_errors=True)
            self._step_dir(step).rename(aside)
            self._manifest(step).unlink()
            warnings.warn(
                f"checkpoint {step} in {self.directory} is damaged ({problem}): set aside as {aside.name}, "
                f"going on from the one before",
                stacklevel=2,
            )
        return None

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Reads an intact checkpoint.

        Args:
            step: one that was found intact.
            like: the state's tree of `jax.ShapeDtypeStruct` with shardings, or of arrays.

        Returns:
            state, data position, provenance.
        """
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(
                self._step_dir(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)),
                    position=ocp.args.JsonRestore(),
                    provenance=ocp.args.JsonRestore(),
                ),
            )
        return restored.state, restored.position, restored.provenance

    def clean(self) -> None:
        """Removes what killed writes left behind; checkpoints, and those set aside as damaged, stay."""
        whole = {name for step in self.steps() for name in (str(step), self._manifest(step).name)}
        for path in self.directory.iterdir() if self.directory.exists() else ():
            if path.name in whole or path.name.startswith("damaged-"):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _is_kept(self, step: int) -> bool:
        try:
            return bool(storage.read_json(self._manifest(step))["keep"])
        except (UserError, TypeError, KeyError):
            return True  # damaged: to be set aside by whoever needs it, with a warning

    def _remove(self, step: int) -> None:
        """Removes one checkpoint, its manifest first: without it the rest no longer counts."""
        self._verified.discard(step)
        self._manifest(step).unlink(missing_ok=True)
        if self._step_dir(step).exists():
            shutil.rmtree(self._step_dir(step))


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by its path inside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
