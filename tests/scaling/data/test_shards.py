import dataclasses
import errno
import resource

import numpy as np
import pytest
from data_builders import task_named
from hypothesis import given
from hypothesis import strategies as st

from scaling.data import writer as writer_module
from scaling.data.shards import EOS, Shards, codec_for, decode, encode, open_prepared, task_id
from scaling.data.writer import SplitWriter
from scaling.errors import UserError

BYTE_TABLE = np.concatenate([np.zeros(3, np.int64), np.ones(256, np.int64)])


@given(st.text(min_size=1))
def test_bytes_are_stored_as_themselves(text):
    tokens = np.asarray([byte + 3 for byte in text.encode()] + [EOS], np.int32)
    stored = encode(tokens, "bytes")
    assert stored == text.encode() + b"\xff"
    assert decode(stored, "bytes").tolist() == tokens.tolist()


@pytest.mark.parametrize(("size", "width"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_larger_vocabularies_take_the_bytes_they_need(size, width):
    codec = codec_for("sentencepiece", size)
    tokens = np.asarray([0, EOS, 255, size - 1], np.int32)
    assert len(encode(tokens, codec)) == 4 * width
    assert decode(encode(tokens, codec), codec).tolist() == tokens.tolist()


def documents(count=50):
    rng = np.random.default_rng(0)
    return [np.append(rng.integers(3, 131, rng.integers(1, 700)), EOS).astype(np.int32) for _ in range(count)]


@dataclasses.dataclass(frozen=True)
class FakeManifest:
    task: object
    codec: str
    vocab_size: int
    train: object


def test_records_are_slices_of_one_document_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 2000)
    writer = SplitWriter(tmp_path, "train", "bytes", BYTE_TABLE, "v")
    for tokens in documents():
        writer.add(tokens, 64)
    split = writer.finish(units=50)
    np.save(tmp_path / "token_bytes.npy", BYTE_TABLE)
    shards = Shards(tmp_path, FakeManifest(task_named("a"), "bytes", 259, split), "train")
    assert len(split.shards) > 3
    assert split.shards[1].endswith(f"train-00001-of-{len(split.shards):05d}.array_record")
    read = shards.read_many(np.arange(shards.num_records))
    assert [len(record) for record in read] == shards.lengths.tolist()
    for number, tokens in enumerate(documents()):
        mine = [record for record, document in zip(read, shards.documents, strict=True) if document == number]
        assert np.concatenate(mine).tolist() == tokens.tolist()
        assert all(len(record) == 64 for record in mine[:-1])
    assert split.tokens == sum(map(len, documents()))
    assert split.bytes == split.tokens - 50  # every document's end is a token and no byte
    assert shards.read(7).tolist() == read[7].tolist()


def test_the_digest_covers_content_and_vocabulary_and_not_the_shards_size(tmp_path, monkeypatch):
    digests = []
    for size, vocabulary, changed in ((1 << 20, "v", 0), (2000, "v", 0), (2000, "w", 0), (2000, "v", 1)):
        monkeypatch.setattr(writer_module, "SHARD_BYTES", size)
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        writer = SplitWriter(folder, "train", "bytes", BYTE_TABLE, vocabulary)
        for tokens in documents():
            writer.add(np.append(tokens[:-1] + changed, EOS), 64)
        digests.append(writer.finish(1).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_full_disk_is_told_as_such(tmp_path):
    writer = SplitWriter(tmp_path, "train", "uint32", np.ones(1 << 23, np.int64), "v")
    noise = np.random.default_rng(0).integers(3, 1 << 23, 20_000).astype(np.int32)

    def write():
        writer.add(noise, 1000)
        writer.finish(1)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


def test_an_unprepared_task_is_an_error_that_tells_the_command(tmp_path):
    with pytest.raises(UserError, match=r"'a' is not prepared in .*: run `windtunnel data prepare"):
        open_prepared(task_named("a"), tmp_path)


def test_a_tasks_id_is_its_definitions():
    task = task_named("a")
    assert task_id(task) == task_id(task_named("a"))
    assert len({task_id(task), task_id(task_named("a", record_tokens=5)), task_id(task_named("b"))}) == 3
    assert task_id(task).startswith("a-")
