"""Writes one split of a prepared folder: slices of documents as ArrayRecord shards, and their index."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from scaling.data import shards

SHARD_BYTES = 256 << 20


class SplitWriter:
    """Writes one split: slices of documents into ArrayRecord shards, and the index of the records."""

    def __init__(self, folder: Path, split: str, codec: shards.Codec, table: np.ndarray, vocabulary_digest: str):
        self._folder, self._split, self._codec, self._table = folder, split, codec, table
        self._vocabulary_digest = vocabulary_digest
        self._hash = hashlib.sha256(vocabulary_digest.encode())
        self._rows: list[tuple[int, int, int]] = []
        self.documents = 0
        self._paths: list[Path] = []
        self._writer: array_record_module.ArrayRecordWriter | None = None
        self._shard_bytes = 0

    def add(self, tokens: np.ndarray, record_tokens: int) -> None:
        """Writes one document in slices of at most `record_tokens` tokens."""
        for start in range(0, len(tokens), record_tokens):
            piece = tokens[start : start + record_tokens]
            stored = shards.encode(piece, self._codec)
            self._hash.update(len(stored).to_bytes(8) + stored)
            with _as_os_error():
                self._open_writer().write(stored)
            self._shard_bytes += len(stored)
            self._rows.append((len(piece), int(self._table[piece].sum()), self.documents))
        self.documents += 1

    def finish(self, units: int) -> shards.SplitManifest:
        """Closes the shards, names them with their number, writes the index, and reads back what was written."""
        self._close_writer()
        total = len(self._paths)
        names = [f"{self._split}-{number:05d}-of-{total:05d}.array_record" for number in range(total)]
        for path, name in zip(self._paths, names, strict=True):
            path.rename(self._folder / name)
        tokens, counted, documents = np.asarray(self._rows, np.uint32).T
        np.savez(self._folder / f"{self._split}-index.npz", tokens=tokens, bytes=counted, documents=documents)
        self._read_back(names)
        return shards.SplitManifest(
            digest=self._hash.hexdigest(),
            shards=tuple(names),
            documents=self.documents,
            units=units,
            records=len(self._rows),
            tokens=int(tokens.sum(dtype=np.int64)),
            bytes=int(counted.sum(dtype=np.int64)),
        )

    def _open_writer(self) -> array_record_module.ArrayRecordWriter:
        if self._writer is None or self._shard_bytes >= SHARD_BYTES:
            self._close_writer()
            self._paths.append(self._folder / f"{self._split}-{len(self._paths):05d}")
            # A group is what one read decompresses: single records, for they are read in random order.
            self._writer = array_record_module.ArrayRecordWriter(str(self._paths[-1]), "group_size:1")
            self._shard_bytes = 0
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            with _as_os_error():
                self._writer.close()
            self._writer = None

    def _read_back(self, names: list[str]) -> None:
        """Raises OSError unless the shards hold what was written: a full disk does not always say so."""
        seen = hashlib.sha256(self._vocabulary_digest.encode())
        for name in names:
            reader = array_record_module.ArrayRecordReader(str(self._folder / name))
            try:
                for stored in reader.read_all():
                    seen.update(len(stored).to_bytes(8) + stored)
            finally:
                reader.close()
        if seen.digest() != self._hash.digest():
            raise OSError(errno.EIO, "shards do not read back as they were written", str(self._folder))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """ArrayRecord says in words alone what the system said in a number."""
    try:
        yield
    except RuntimeError as error:
        numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        number = next((n for n in numbers if os.strerror(n) in str(error)), errno.EIO)
        raise OSError(number, str(error)) from error
