"""Raw text: documents of the Python standard library or of files, in an order that is always the same.

Text that is not valid UTF-8 is skipped and counted, never fatal and never repaired: a loss per byte is only
exact where the bytes are the ones that were read.
"""

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import io
import itertools
import json
import sysconfig
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from scaling.config import SourceConfig
from scaling.data import key_value
from scaling.errors import UserError

_HELDOUT_AT_MOST = 0.2
KINDS = ".txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .zip"
NO_TEST_PACKAGE = (
    "this interpreter comes without the standard library's `test` package, so the corpus is about 12 MB instead of "
    "31 MB: plan a smaller ladder, or prepare with an interpreter that has it"
)


@dataclasses.dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Attributes:
        id: where it was read, for people.
        text: the text; its UTF-8 encoding is exactly the bytes that were read.
        unit: what the held-out split hashes; documents of one unit are never on both sides.
    """

    id: str
    text: str
    unit: str


def documents(source: SourceConfig, skipped: Counter[str] | None = None, section_size: int = 0) -> Iterator[Document]:
    """All documents of a corpus, always in the same order.

    Args:
        source: which corpus.
        skipped: is told what was left out, by reason: "not_utf8", "no_text", "not_json", "unknown_kind".
        section_size: if not 0, texts of files are cut at blank lines into documents of at least so many
            characters: for a corpus of a few long texts, of which some must be held out.

    Raises:
        UserError: nothing matches the glob, or nothing that matches holds a document.
    """
    skipped = Counter() if skipped is None else skipped
    found = False
    for document in _documents(source, skipped):
        found = True
        yield from _sections(document, section_size) if section_size else (document,)
    if not found:
        place = repr(source.glob) if source.kind == "files" else "the standard library"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))
        raise UserError(
            f"source {source.domain!r}: no documents in {place} (skipped: {reasons or 'nothing'}); readable are "
            f"{KINDS}, with the text of .jsonl and .parquet under {source.text_key!r}"
        )


def _documents(source: SourceConfig, skipped: Counter[str]) -> Iterator[Document]:
    if source.kind == "python_stdlib":
        return _python_stdlib(skipped)
    return _files(source, skipped) if source.kind == "files" else _key_value(source, skipped)


def _key_value(source: SourceConfig, skipped: Counter[str]) -> Iterator[Document]:
    """Generated documents; lines of the standard library between their pairs are of modules that are trained on."""
    if source.key_value is None:
        raise UserError(f"source {source.domain!r}: kind 'key_value' needs key_value, a KeyValueConfig")
    trained_on = (d.text for d in _python_stdlib(skipped) if unit_interval(d.unit) >= _HELDOUT_AT_MOST)
    lines = list(itertools.chain.from_iterable(text.splitlines(keepends=True) for text in trained_on))
    for number, text in enumerate(key_value.texts(source.key_value, lines)):
        yield _document(f"key_value/{number}", text)


def unit_interval(unit: str) -> float:
    """Where a split unit falls between 0 and 1, by its hash; those below a task's fraction are held out."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8]) / 2**64


def _sections(document: Document, size: int) -> Iterator[Document]:
    """A text cut after blank lines (after lines, where it has none blank); end to end they are the text."""
    mark = "\n\n" if "\n\n" in document.text else "\n"
    start = number = 0
    while start < len(document.text):
        cut = document.text.find(mark, start + size)
        end = len(document.text) if cut < 0 else cut + len(mark)
        number += 1
        yield _document(f"{document.id}#{number}", document.text[start:end])
        start = end


def stdlib_folder() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def notes(source: SourceConfig) -> tuple[str, ...]:
    """What a person should know about this corpus on this machine."""
    if source.kind == "python_stdlib" and not (stdlib_folder() / "test" / "test_json").is_dir():
        return (NO_TEST_PACKAGE,)
    return ()


def _python_stdlib(skipped: Counter[str]) -> Iterator[Document]:
    root = stdlib_folder()
    left_out = {"site-packages", "dist-packages", "__pycache__"}
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    for name in sorted(names, key=lambda name: name.as_posix()):
        if left_out.isdisjoint(name.parts) and (text := _decode((root / name).read_bytes(), skipped)) is not None:
            yield Document(name.as_posix(), text, _stdlib_unit(name))


def _stdlib_unit(name: Path) -> str:
    """The top-level module, and one level more inside `test`, which is three fifths of all text."""
    depth = 2 if name.parts[0] == "test" else 1
    return "/".join(name.with_suffix("").parts[:depth])


def _files(source: SourceConfig, skipped: Counter[str]) -> Iterator[Document]:
    paths = sorted(glob.glob(str(Path(source.glob).expanduser()), recursive=True))
    for path in map(Path, paths):
        if path.is_file():
            with path.open("rb") as stream, _damage_named(path.as_posix()):
                yield from _texts(path.as_posix(), stream, source.text_key, skipped)


def _texts(name: str, stream: IO[bytes], key: str, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of one file, or of one member of an archive, by the kind that its name says."""
    suffixes = PurePosixPath(name).suffixes[-2:]
    last = suffixes[-1].lower() if suffixes else ""
    packed = last in (".gz", ".zst") and len(suffixes) == 2 and suffixes[0].lower() == ".jsonl"
    if last == ".zip":
        yield from _zip(name, stream, key, skipped)
    elif last == ".parquet":
        yield from _parquet(name, stream, key, skipped)
    elif last == ".jsonl" or packed:
        with _unpacked(stream, last) as lines:
            yield from _jsonl(name, lines, key, skipped)
    elif last in (".txt", ""):
        if (text := _decode(stream.read(), skipped)) is not None:
            yield _document(name, text)
    else:
        skipped["unknown_kind"] += 1


def _zip(name: str, stream: IO[bytes], key: str, skipped: Counter[str]) -> Iterator[Document]:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise UserError(f"{name}: not a whole zip archive ({error}); fetch it again or leave it out") from error
    with archive:
        for member in sorted(archive.namelist()):
            if not member.endswith("/"):
                with archive.open(member) as inner:
                    yield from _texts(f"{name}/{member}", inner, key, skipped)


def _jsonl(name: str, lines: IO[bytes], key: str, skipped: Counter[str]) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            skipped["not_utf8"] += 1
            continue
        except json.JSONDecodeError:
            skipped["not_json"] += 1
            continue
        yield from _field(f"{name}:{number}", record.get(key) if isinstance(record, dict) else None, skipped)


def _parquet(name: str, stream: IO[bytes], key: str, skipped: Counter[str]) -> Iterator[Document]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(stream)
    if key not in table.schema_arrow.names:
        raise UserError(f"{name}: has no column {key!r}; text_key must be one of {table.schema_arrow.names}")
    number = 0
    for batch in table.iter_batches(columns=[key]):
        for value in batch.column(0).to_pylist():
            number += 1
            yield from _field(f"{name}:{number}", value, skipped)


def _field(name: str, value: object, skipped: Counter[str]) -> Iterator[Document]:
    if not isinstance(value, str):
        skipped["no_text"] += 1
    elif not _is_unicode(value):
        skipped["not_utf8"] += 1
    else:
        yield _document(name, value)


def _is_unicode(text: str) -> bool:
    """Whether the text has an encoding: a lone surrogate, which JSON can escape, has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Turns what the formats' libraries say of a cut, damaged or encrypted file into a sentence that names it."""
    try:
        yield
    except (EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise UserError(f"{name}: cannot be read to its end ({error}); fetch it again or leave it out") from error


class _Zstandard(io.RawIOBase):
    """Unpacked frames of a .zst stream. Unlike the library's own reader it notices a file that was cut short."""

    def __init__(self, stream: IO[bytes]):
        import zstandard

        self._stream, self._library = stream, zstandard
        self._frame: Any = None
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._stream.read(1 << 16)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("it ends inside a frame")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(self._packed)
            except self._library.ZstdError as error:
                raise ValueError(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


@contextlib.contextmanager
def _unpacked(stream: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield io.BufferedReader(unpacked)
    elif suffix == ".zst":
        yield io.BufferedReader(_Zstandard(stream))
    else:
        yield stream


def _decode(data: bytes, skipped: Counter[str]) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        skipped["not_utf8"] += 1
        return None


def _document(name: str, text: str) -> Document:
    """A document that is a split unit of its own: by content, so that moving files moves nothing across."""
    return Document(name, text, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
