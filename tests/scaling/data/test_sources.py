import gzip
import json
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from data_builders import SHARED_TEXT

from scaling.config import SourceConfig
from scaling.data.sources import documents, notes, stdlib_folder
from scaling.errors import UserError


def read(glob, text_key="text", section_size=0):
    skipped = Counter()
    found = list(documents(SourceConfig("files", "d", str(glob), text_key), skipped, section_size))
    return [document.text for document in found], skipped, found


LINES = [{"text": "one\r\n"}, {"text": "tw\u00f6"}, {"other": "x"}, {"text": "\ud800"}, {"text": 3}]


def test_every_kind_of_file_gives_the_same_texts(tmp_path):
    jsonl = "".join(json.dumps(line) + "\n" for line in LINES).encode() + b"{not json\n" + b'{"text": "\xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(jsonl)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(jsonl))
    table = pa.table({"text": ["one\r\n", "tw\u00f6", None]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        texts, skipped, _ = read(tmp_path / name)
        assert texts == ["one\r\n", "tw\u00f6"]
        assert skipped == {"no_text": 2, "not_utf8": 2, "not_json": 1}
    texts, skipped, _ = read(tmp_path / "d.parquet")
    assert (texts, skipped) == (["one\r\n", "tw\u00f6"], {"no_text": 1})
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
            archive.write(tmp_path / name, name)
    assert read(tmp_path / "e.zip")[0] == ["one\r\n", "tw\u00f6"] * 4
    assert len(read(tmp_path / "*")[0]) == 16


def test_zip_members_that_are_no_text_are_counted(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/b.txt", "later")
        archive.writestr("folder/README", "no extension")
        archive.writestr("folder/a.txt", "caf\u00e9".encode("latin-1"))
        archive.writestr("folder/c.png", b"\x89PNG")
    texts, skipped, found = read(tmp_path / "x.zip")
    assert texts == ["no extension", "later"]
    assert skipped == {"not_utf8": 1, "unknown_kind": 1}
    assert found[1].id.endswith("x.zip/folder/b.txt")


def test_a_texts_split_unit_does_not_depend_on_where_it_lies(tmp_path):
    for name in ("a/x.txt", "b/y.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("same words")
    first, second = read(tmp_path / "*" / "*.txt")[2]
    assert first.id != second.id
    assert first.unit == second.unit


@pytest.mark.parametrize("mark", ["\n\n", "\n"])
def test_sections_end_to_end_are_the_text(tmp_path, mark):
    text = mark.join(f"paragraph {number} " + "x" * (number % 50) for number in range(200))
    (tmp_path / "long.txt").write_text(text)
    texts, _, found = read(tmp_path / "long.txt", section_size=500)
    assert "".join(texts) == text
    assert all(500 <= len(section) < 600 and section.endswith(mark) for section in texts[:-1])
    assert len({document.unit for document in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.txt", b"x", "no documents in '.*nothing.*' .skipped: nothing."),
        ("nothing.jsonl", b'{"words": "x"}\n', "no_text 1.*under 'text'"),
        ("nothing.pdf", b"%PDF", "unknown_kind 1.*readable are .txt"),
        ("nothing.zip", b"PK no", "nothing.zip: not a whole zip archive"),
    ],
)
def test_a_corpus_without_documents_is_an_error_that_names_the_glob(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "nothing*")


def test_a_parquet_without_the_column_is_an_error(tmp_path):
    pyarrow.parquet.write_table(pa.table({"content": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"no column 'text'.*'content'"):
        read(tmp_path / "x.parquet")


def test_standard_library_is_split_by_module():
    skipped = Counter()
    found = list(documents(SourceConfig("python_stdlib", "code"), skipped))
    units = {document.id: document.unit for document in found}
    assert units["json/decoder.py"] == units["json/encoder.py"] == "json"
    assert units["abc.py"] == "abc"
    assert not any("site-packages" in name or "__pycache__" in name for name in units)
    assert list(units) == sorted(units)
    if not notes(SourceConfig("python_stdlib", "code")):
        assert units["test/test_json/test_dump.py"] == units["test/test_json/__init__.py"] == "test/test_json"
        assert units["test/test_abc.py"] == "test/test_abc"
        assert skipped["not_utf8"] >= 1  # test_source_encoding brings sources in other encodings
    assert found[0].text.encode() == (stdlib_folder() / found[0].id).read_bytes()


@pytest.mark.skipif(not SHARED_TEXT.is_dir(), reason="no shared texts on this machine")
def test_archives_with_texts_in_other_encodings_are_read():
    texts, skipped, _ = read(SHARED_TEXT / "*.zip")
    assert len(texts) > 2000
    assert skipped["not_utf8"] > 0


def parquet_bytes(lines):
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"text": lines}), sink)
    return sink.getvalue().to_pybytes()


CUT = {
    "a.jsonl.gz": lambda text: gzip.compress(text, mtime=0)[:-12],
    "b.jsonl.zst": lambda text: zstandard.ZstdCompressor().compress(text)[:-12],
    "b2.jsonl.zst": lambda text: b"no frame at all",
    "c.parquet": lambda text: parquet_bytes(text.decode().split("\n"))[:-9],
    "d.jsonl.gz": lambda text: b"no gzip at all",
}


@pytest.mark.parametrize("name", CUT)
def test_a_damaged_file_is_named(tmp_path, name):
    text = "".join(json.dumps({"text": f"line {i * i}"}) + "\n" for i in range(5000)).encode()
    (tmp_path / name).write_bytes(CUT[name](text))
    with pytest.raises(UserError, match=f"{name}: cannot be read to its end"):
        read(tmp_path / name)


def test_a_zstandard_file_of_several_frames_is_read_whole(tmp_path):
    lines = [json.dumps({"text": f"line {i}"}).encode() + b"\n" for i in range(3000)]
    frames = [zstandard.ZstdCompressor().compress(b"".join(lines[i::3])) for i in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert sorted(read(tmp_path / "a.jsonl.zst")[0]) == sorted(f"line {i}" for i in range(3000))
