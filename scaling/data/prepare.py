"""From a task's definition to its prepared folder: clean, split, tokenise, write, verify.

The corpus is read in passes (what to keep; the vocabulary; the tokens of each split), so memory holds sketches
of documents and never the corpus. The same corpus gives the same bytes.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from scaling.config import TaskConfig, canonical, to_json
from scaling.data import shards, sources
from scaling.data.duplicates import Duplicates
from scaling.data.sources import Document
from scaling.data.writer import SplitWriter
from scaling.errors import UserError

DROPPED, TRAIN, HELDOUT = 0, 1, 2
Progress = Callable[[str, int, int], None]


def ignore_progress(stage: str, documents: int, done_bytes: int) -> None:
    """The progress callback of who does not want to know."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What becomes of every document of a corpus.

    Attributes:
        fates: per document in order, DROPPED, TRAIN or HELDOUT.
        dropped: documents left out, by reason, those that could not be read included.
        units: split units with at least one kept document, for TRAIN and HELDOUT.
    """

    fates: bytes
    dropped: dict[str, int]
    units: dict[int, tuple[str, ...]]


def prepare(task: TaskConfig, data_dir: Path, progress: Progress = ignore_progress) -> shards.Manifest:
    """Prepares a task, or finds it prepared and intact.

    The folder is written under another name and renamed when everything in it has been read back, so that a
    kill or a full disk leaves nothing that is later taken for whole. Two processes do not prepare one task at a
    time: the second waits and finds it done.

    Args:
        task: the definition.
        data_dir: where prepared folders lie; made if absent.
        progress: called with the stage ("clean", "vocabulary", "train", "heldout"), and the documents and
            UTF-8 bytes that it has worked through.

    Raises:
        UserError: an empty corpus, one that cannot be split, a disk that is full, a damaged folder.
    """
    _check_definition(task)
    folder = data_dir / shards.task_id(task)
    if folder.exists():
        return shards.open_prepared(task, data_dir).manifest
    partial = data_dir / f".{folder.name}.partial"
    with _out_of_space(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        with _lock(data_dir / f".{folder.name}.lock"):
            if folder.exists():
                return shards.open_prepared(task, data_dir).manifest
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                _write(task, partial, progress)
                partial.rename(folder)
                _sync(data_dir)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return shards.open_prepared(task, data_dir).manifest


def survey(task: TaskConfig, progress: Progress = ignore_progress) -> Survey:
    """Decides about every document: too short, a duplicate of an earlier one, for training or held out.

    Duplicates are found before the split and across it, so no held-out document has a near twin in training.
    """
    skipped: Counter[str] = Counter()
    fates = bytearray()
    units: dict[str, int] = {}
    unit_of: list[str] = []
    duplicates = Duplicates(task.near_duplicates)
    for count, size, document in _counted(sources.documents(task.source, skipped)):
        progress("clean", count, size)
        data = document.text.encode()
        repeat = None if len(data) < task.min_bytes else duplicates.check(data)
        reason = "too_short" if len(data) < task.min_bytes else f"{repeat}_duplicate" if repeat else ""
        if reason:
            skipped[reason] += 1
        else:
            units[document.unit] = 0
        fates.append(DROPPED if reason else TRAIN)
        unit_of.append(document.unit)
    heldout = _heldout_units(task, units)
    for number, unit in enumerate(unit_of):
        if fates[number] and unit in heldout:
            fates[number] = HELDOUT
    by_split = {
        TRAIN: tuple(u for u in units if u not in heldout),
        HELDOUT: tuple(u for u in units if u in heldout),
    }
    return Survey(bytes(fates), dict(sorted(skipped.items())), by_split)


def _heldout_units(task: TaskConfig, units: Iterable[str]) -> set[str]:
    """Units whose hash falls below the fraction; at least the one with the smallest hash."""
    hashes = {unit: int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8]) / 2**64 for unit in units}
    if len(hashes) < 2:
        raise UserError(
            f"task {task.name!r}: {len(hashes)} document(s) left of {task.source.glob or 'the corpus'!r} after "
            f"cleaning, and a held-out split needs at least two: bring more documents, or cut a long one"
        )
    below = {unit for unit, value in hashes.items() if value < task.heldout_fraction}
    return below or {min(hashes, key=lambda unit: (hashes[unit], unit))}


def _write(task: TaskConfig, folder: Path, progress: Progress) -> None:
    """Everything of a prepared folder, the manifest last."""
    from scaling.data import tasks  # eight seconds of TensorFlow, in preparation alone

    found = survey(task, progress)

    def texts(stage: str, fate: int) -> Iterator[str]:
        both = zip(sources.documents(task.source), found.fates, strict=True)
        for count, size, document in _counted(document for document, what in both if what == fate):
            progress(stage, count, size)
            yield document.text

    model_file = folder / shards.VOCABULARY_MODEL
    if task.vocabulary.kind == "sentencepiece":
        model_file.write_bytes(tasks.train_sentencepiece(texts("vocabulary", TRAIN), task.vocabulary.size))
    vocab = tasks.vocabulary(task, model_file)
    table = tasks.token_bytes(vocab)
    np.save(folder / shards.TOKEN_BYTES, table)
    vocabulary_digest = _vocabulary_digest(task, model_file)
    codec: shards.Codec = (
        "bytes" if task.vocabulary.kind == "bytes" else "uint16" if len(table) <= 1 << 16 else "uint32"
    )
    seqio_task = tasks.build_task(
        task, vocab, {"train": lambda: texts("train", TRAIN), "heldout": lambda: texts("heldout", HELDOUT)}
    )
    splits = {}
    for split, fate in (("train", TRAIN), ("heldout", HELDOUT)):
        writer = SplitWriter(folder, split, codec, table, vocabulary_digest)
        for tokens in tasks.tokenized(seqio_task, split):
            writer.add(tokens, task.record_tokens)
        splits[split] = writer.finish(len(found.units[fate]))
    manifest = shards.Manifest(
        task=task,
        codec=codec,
        vocab_size=len(table),
        vocabulary_digest=vocabulary_digest,
        train=splits["train"],
        heldout=splits["heldout"],
        heldout_units=tuple(sorted(found.units[HELDOUT]))[:1000],
        dropped=found.dropped,
        notes=sources.notes(task.source),
        versions=_versions() | tasks.versions(),
        files={path.name: _file_record(path) for path in sorted(folder.iterdir())},
    )
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False)
    (folder / shards.MANIFEST).write_text(text + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)
    shards.check_files(folder, manifest, verify=True)


def _check_definition(task: TaskConfig) -> None:
    wrong = {
        "name": not task.name or not all(c.isalnum() or c in "-_." for c in task.name) or task.name[0] == ".",
        "record_tokens": task.record_tokens < 2,
        "heldout_fraction": not 0 < task.heldout_fraction < 1,
        "near_duplicates": not 0 < task.near_duplicates <= 1,
        "vocabulary": (task.vocabulary.kind == "sentencepiece") != (task.vocabulary.size > 0),
    }
    allowed = {
        "name": "letters, digits, - _ .",
        "record_tokens": "at least 2",
        "heldout_fraction": "between 0 and 1",
        "near_duplicates": "above 0, at most 1",
        "vocabulary": "a size for sentencepiece, none for bytes",
    }
    for field in (field for field, is_wrong in wrong.items() if is_wrong):
        raise UserError(
            f"task {task.name!r}: {field} is {getattr(task, field)!r}: it must be {allowed[field]}"
        )


def _counted(read: Iterable[Document]) -> Iterator[tuple[int, int, Document]]:
    """Documents with how many there were so far and their UTF-8 bytes."""
    size = 0
    for count, document in enumerate(read, start=1):
        size += len(document.text.encode())
        yield count, size, document


def _vocabulary_digest(task: TaskConfig, model_file: Path) -> str:
    if task.vocabulary.kind == "bytes":
        return hashlib.sha256(b"bytes").hexdigest()
    return shards.file_sha256(model_file)


def _file_record(path: Path) -> shards.FileRecord:
    return shards.FileRecord(path.stat().st_size, shards.file_sha256(path))


def _versions() -> dict[str, str]:
    libraries = ("array-record", "datasketch", "numpy")
    python = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    return python | {name: importlib.metadata.version(name) for name in libraries}


@contextlib.contextmanager
def _out_of_space(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(data_dir).free / 1e6
        raise UserError(
            f"{data_dir}: no space left ({free:.0f} MB free); nothing was kept: free some or give another --data-dir"
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an advisory lock, which the system lets go of when the process ends in whatever way."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    """Has a file or folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
