"""From a task's definition to its prepared folder: clean, split, tokenise, write, verify.

The corpus is read in passes (what to keep, the vocabulary, the tokens of each split), so memory holds sketches
of documents and never the corpus. The same corpus gives the same bytes.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from scaling.config import TaskConfig, to_json
from scaling.data import shards, sources
from scaling.data.sources import Document
from scaling.data.survey import HELDOUT, TRAIN, Survey, survey
from scaling.data.writer import SplitWriter
from scaling.errors import UserError

FATES: dict[shards.Split, int] = {"train": TRAIN, "heldout": HELDOUT}
VOCABULARY_BYTES = 64 << 20  # of training text that a vocabulary is learned from, at most
Progress = Callable[[str, int, int], None]


def ignore_progress(stage: str, documents: int, done_bytes: int) -> None:
    """The progress callback of who does not want to know."""


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
    partial = data_dir / f".{folder.name}.partial"
    if not folder.exists():
        with _out_of_space(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
            with _lock(data_dir / f".{folder.name}.lock"):
                if not folder.exists():
                    shutil.rmtree(partial, ignore_errors=True)
                    try:
                        partial.mkdir()
                        _write(task, partial, progress)
                        partial.rename(folder)
                        _sync(data_dir)
                    finally:
                        shutil.rmtree(partial, ignore_errors=True)
    return shards.open_prepared(task, data_dir).manifest


def _write(task: TaskConfig, folder: Path, progress: Progress) -> None:
    """Everything of a prepared folder, the manifest last."""
    from scaling.data import tasks  # eight seconds of TensorFlow, in preparation alone

    found = survey(task, functools.partial(progress, "clean"))
    sizes: deque[int] = deque()  # of the texts on their way through seqio, which hands on tokens alone

    def texts(split: shards.Split, stage: str) -> Iterator[str]:
        done = 0
        for number, document in enumerate(_kept(task, found, FATES[split]), start=1):
            size = len(document.text.encode())
            done += size
            progress(stage, number, done)
            sizes.append(size)
            yield document.text

    model_file = folder / shards.VOCABULARY_MODEL
    if task.vocabulary.model_file:
        _copy_model(Path(task.vocabulary.model_file), model_file)
    elif task.vocabulary.kind == "sentencepiece":
        sample = _sample(texts("train", "vocabulary"), VOCABULARY_BYTES / max(1, found.kept_bytes))
        model_file.write_bytes(tasks.train_sentencepiece(sample, task.vocabulary.size))
    vocabulary = tasks.vocabulary(task.vocabulary, model_file)
    table = tasks.token_bytes(vocabulary)
    np.save(folder / shards.TOKEN_BYTES, table)
    vocabulary_digest = shards.file_sha256(model_file if model_file.exists() else folder / shards.TOKEN_BYTES)
    codec = shards.codec_for(task.vocabulary.kind, len(table))
    seqio_task = tasks.build_task(task, vocabulary, {split: functools.partial(texts, split, split) for split in FATES})
    dropped = Counter(found.dropped)
    splits = {}
    for split, fate in FATES.items():
        sizes.clear()
        writer = SplitWriter(folder, split, codec, table, vocabulary_digest)
        for tokens in tasks.tokenized(seqio_task, split):
            if table[tokens].sum() == sizes.popleft():
                writer.add(tokens, task.record_tokens)
            else:  # SentencePiece takes a literal U+2581 for a space: the loss per byte would be of other text
                dropped["not_representable"] += 1
        if not writer.documents:
            raise UserError(f"task {task.name!r}: the vocabulary gives no document of its {split} split back exactly")
        splits[split] = writer.finish(len(found.units[fate]))
    manifest = shards.Manifest(
        task=task,
        codec=codec,
        vocab_size=len(table),
        vocabulary_digest=vocabulary_digest,
        train=splits["train"],
        heldout=splits["heldout"],
        heldout_units=tuple(sorted(found.units[HELDOUT]))[:1000],
        dropped=dict(sorted(dropped.items())),
        notes=sources.notes(task.source) + found.notes,
        versions=_versions(),
        files={path.name: _file_record(path) for path in sorted(folder.iterdir())},
    )
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False)
    (folder / shards.MANIFEST).write_text(text + "\n", encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)
    shards.check_files(folder, manifest, verify=True)


def _kept(task: TaskConfig, found: Survey, fate: int) -> Iterator[Document]:
    """The documents of one split."""
    documents = sources.documents(task.source, section_size=found.section_size)
    return (document for document, what in zip(documents, found.fates, strict=True) if what == fate)


def _sample(texts: Iterable[str], share: float) -> Iterator[str]:
    """About this share of the texts, by their hash; all of them from 1 on."""
    return (text for text in texts if share >= 1 or _unit_interval(text) < share)


def _unit_interval(text: str) -> float:
    return int.from_bytes(hashlib.sha256(b"vocabulary" + text.encode()).digest()[:8]) / 2**64


def _copy_model(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise UserError(f"vocabulary.model_file {source}: no such file; prepare the task it comes from") from error


def _check_definition(task: TaskConfig) -> None:
    words = task.vocabulary
    trained, given = words.size > 0, words.model_file != ""
    rules = {
        "name": (task.name.replace("-", "").replace(".", "").replace("_", "").isalnum(), "letters, digits, - _ ."),
        "record_tokens": (task.record_tokens > 1, "at least 2"),
        "heldout_fraction": (0 < task.heldout_fraction < 1, "between 0 and 1"),
        "near_duplicates": (0 < task.near_duplicates <= 1, "above 0 and at most 1"),
        "vocabulary": (
            trained != given if words.kind == "sentencepiece" else not (trained or given),
            "sentencepiece with either a size or a model_file, or bytes with neither",
        ),
    }
    for field, (holds, rule) in rules.items():
        if not holds:
            raise UserError(f"task {task.name!r}: {field} is {getattr(task, field)!r} and must be {rule}")


def _file_record(path: Path) -> shards.FileRecord:
    return shards.FileRecord(path.stat().st_size, shards.file_sha256(path))


def _versions() -> dict[str, str]:
    libraries = ("array-record", "datasketch", "numpy", "sentencepiece", "seqio", "tensorflow")
    python = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    return python | {name: importlib.metadata.version(name) for name in libraries}


@contextlib.contextmanager
def _out_of_space(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{data_dir}: {os.strerror(error.errno).lower()}, nothing was kept; make room or give another --data-dir"
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
