"""Prepared tasks: the folder's manifest, and the token records of its two splits.

A prepared folder is self-contained: reading it needs neither seqio nor TensorFlow, nor the corpus. Its name is
`<task>-<first 8 hex digits of the definition's hash>`. It holds, per split, ArrayRecord shards (one record is a
slice of one document) and an index of the records; the vocabulary's model file, if it has one; the number of
bytes that each token stands for; and a manifest, written last.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scaling.config import TaskConfig, canonical, from_json, to_json
from scaling.errors import UserError

MANIFEST = "manifest.json"
TOKEN_BYTES = "token_bytes.npy"
VOCABULARY_MODEL = "vocabulary.model"
BYTE_OFFSET, EOS = 3, 1  # seqio's ids: 0 padding, 1 end of document, 2 unknown, then the vocabulary
_STORED_EOS = 0xFF  # never a byte of UTF-8

Codec = Literal["bytes", "uint16", "uint32"]
Split = Literal["train", "heldout"]


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file of a prepared folder."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SplitManifest:
    """What one split holds.

    Attributes:
        digest: SHA-256 over the stored records and the vocabulary: what a run's identity covers.
        shards: ArrayRecord files, in order.
        documents, units, records, tokens, bytes: counts; every document's end is a token and no byte.
    """

    digest: str
    shards: tuple[str, ...]
    documents: int
    units: int
    records: int
    tokens: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds and where it came from.

    Attributes:
        task: the definition that it was prepared from.
        codec: how records are stored.
        vocab_size: number of token ids, special ones included.
        vocabulary_digest: SHA-256 of the vocabulary's model file (of the table of token bytes, if it has none);
            tasks of one mixture share it.
        heldout_units: split units whose hash put them in the held-out split (at most the first 1000).
        dropped: documents left out, by reason.
        notes: what a person should know.
        versions: of the interpreter and the libraries that made the shards.
        files: every other file of the folder.
    """

    task: TaskConfig
    codec: Codec
    vocab_size: int
    vocabulary_digest: str
    train: SplitManifest
    heldout: SplitManifest
    heldout_units: tuple[str, ...]
    dropped: dict[str, int]
    notes: tuple[str, ...]
    versions: dict[str, str]
    files: dict[str, FileRecord]


def task_id(task: TaskConfig) -> str:
    """The name of a task's prepared folder, and of the task as a source in a timeline."""
    return f"{task.name}-{hashlib.sha256(canonical(to_json(task)).encode()).hexdigest()[:8]}"


def codec_for(kind: str, vocab_size: int) -> Codec:
    """How tokens of a vocabulary of this kind and size are stored."""
    if kind == "bytes":
        return "bytes"
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def encode(tokens: np.ndarray, codec: Codec) -> bytes:
    """Token ids as stored: for bytes the byte itself, with 0xFF (never in UTF-8) for the end of document."""
    if codec == "bytes":
        return np.where(tokens == EOS, _STORED_EOS, tokens - BYTE_OFFSET).astype(np.uint8).tobytes()
    return tokens.astype("<u2" if codec == "uint16" else "<u4").tobytes()


def decode(record: bytes, codec: Codec) -> np.ndarray:
    """int32 token ids of a stored record; the inverse of `encode`."""
    if codec == "bytes":
        return _BYTE_TOKENS[np.frombuffer(record, np.uint8)]
    return np.frombuffer(record, "<u2" if codec == "uint16" else "<u4").astype(np.int32)


_BYTE_TOKENS = np.arange(256, dtype=np.int32) + BYTE_OFFSET
_BYTE_TOKENS[_STORED_EOS] = EOS


class Shards:
    """The token records of one split; `read` gives record i as int32 token ids.

    Attributes:
        name: the task's, under which a timeline counts its tokens.
        lengths: int64 [num_records], tokens of each record.
        documents: int64 [num_records], the ordinal of each record's document within the split.
        token_bytes: int64 [vocab_size], UTF-8 bytes that each token id stands for; 0 for special ids.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: Split):
        self.name = manifest.task.name
        self.split = split
        self.manifest = manifest
        self.counts: SplitManifest = getattr(manifest, split)
        self.digest = self.counts.digest
        self.num_records = self.counts.records
        self.tokens = self.counts.tokens
        self.vocab_size = manifest.vocab_size
        self.bytes_per_token = self.counts.bytes / self.counts.tokens
        self.token_bytes = np.load(folder / TOKEN_BYTES).astype(np.int64)
        with np.load(folder / f"{split}-index.npz") as index:
            self.lengths = index["tokens"].astype(np.int64)
            self.documents = index["documents"].astype(np.int64)
        self._paths = [str(folder / shard) for shard in self.counts.shards]

    @functools.cached_property
    def _source(self) -> Any:
        import grain  # two seconds that a plan, which only counts tokens, need not wait for

        return grain.sources.ArrayRecordDataSource(self._paths)

    def read(self, record: int) -> np.ndarray:
        """int32 token ids of one record."""
        return decode(self._source[record], self.manifest.codec)

    def read_many(self, records: np.ndarray) -> list[np.ndarray]:
        """int32 token ids of several records, in the order asked."""
        stored = self._source.__getitems__(records.tolist())
        return [decode(record, self.manifest.codec) for record in stored]

    def __repr__(self) -> str:
        return f"Shards({self.name}/{self.split}, {self.num_records} records, {self.tokens} tokens)"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared task: its manifest and the shards of both splits."""

    manifest: Manifest
    train: Shards
    heldout: Shards


def open_prepared(task: TaskConfig, data_dir: Path, verify: bool = False) -> Prepared:
    """Opens a prepared task and checks that its folder is the one that was written.

    Args:
        task: the definition; the folder must have been prepared from exactly this one.
        data_dir: where prepared folders lie.
        verify: whether to hash every file instead of comparing sizes only.

    Raises:
        UserError: not prepared, prepared from another definition, or damaged.
    """
    folder = data_dir / task_id(task)
    if not folder.is_dir():
        raise UserError(_why_missing(task, data_dir))
    manifest = read_manifest(folder)
    if manifest.task != task:
        raise UserError(f"{folder}: was prepared with {_differences(manifest.task, task)}; delete it and prepare again")
    check_files(folder, manifest, verify)
    return Prepared(manifest, Shards(folder, manifest, "train"), Shards(folder, manifest, "heldout"))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder."""
    try:
        return from_json(Manifest, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"{folder}: its manifest cannot be read ({error}); delete the folder and prepare again"
        ) from error


def check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    """Raises a UserError unless every file has the size (or, to verify, the SHA-256) of the manifest."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected.bytes:
            raise UserError(f"{path}: missing or not of {expected.bytes} bytes; delete {folder} and prepare again")
        if verify and file_sha256(path) != expected.sha256:
            raise UserError(f"{path}: its bytes have changed; delete {folder} and prepare again")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _why_missing(task: TaskConfig, data_dir: Path) -> str:
    message = f"task {task.name!r} is not prepared in {data_dir}"
    for other in sorted(data_dir.glob(f"{task.name}-????????/{MANIFEST}")):
        message += f" (what is there has {_differences(read_manifest(other.parent).task, task)})"
        break
    return f"{message}: run `windtunnel data prepare STUDY` with the study that names it"


def _differences(there: TaskConfig, asked: TaskConfig) -> str:
    """Words for what differs between two definitions of a task."""
    old, new = to_json(there), to_json(asked)
    return ", ".join(f"{key} {old[key]!r} where {new[key]!r} is asked" for key in old if old[key] != new[key])
