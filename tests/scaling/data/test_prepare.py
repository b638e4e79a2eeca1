import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from data_builders import SHARED_TEXT, task_named

from scaling.config import DataConfig, MixtureComponent, SourceConfig, TaskConfig, VocabularyConfig, to_json
from scaling.data import prepare as prepare_module
from scaling.data.loader import Loader, open_mixture, open_streams
from scaling.data.prepare import prepare
from scaling.data.shards import EOS, open_prepared, task_id
from scaling.data.timeline import Timeline
from scaling.errors import UserError

BPE = VocabularyConfig("sentencepiece", 400)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def texts_of(corpus):
    with zipfile.ZipFile(corpus.source.glob) as archive:
        return {archive.read(name).decode() for name in archive.namelist()}


def documents_of(shards):
    """The token ids of each document, its slices put together."""
    records = shards.read_many(np.arange(shards.num_records))
    found = [[] for _ in range(shards.counts.documents)]
    for record, document in zip(records, shards.documents, strict=True):
        found[document].extend(record.tolist())
    return found


def test_prepared_bytes_are_the_corpus(tmp_path, corpus):
    told = []
    manifest = prepare(corpus, tmp_path, lambda stage, documents, size: told.append((stage, documents, size)))
    prepared = open_prepared(corpus, tmp_path, verify=True)
    assert prepared.manifest == manifest
    texts = []
    for shards in (prepared.train, prepared.heldout):
        for document in documents_of(shards):
            assert document[-1] == EOS
            texts.append(bytes(token - 3 for token in document[:-1]).decode())
        assert shards.lengths.max() <= corpus.record_tokens
        assert shards.tokens == shards.lengths.sum()
    assert len(texts) == len(set(texts)) == 60
    assert set(texts) == texts_of(corpus)
    total = sum(len(text.encode()) for text in texts)
    assert manifest.train.bytes + manifest.heldout.bytes == total
    assert manifest.train.tokens + manifest.heldout.tokens == total + 60
    assert manifest.vocab_size == 259
    assert [stage for stage, *_ in told if stage == "clean"] == ["clean"] * 60
    assert told[59][1:] == (60, total)
    assert told[-1] == ("heldout", manifest.heldout.documents, manifest.heldout.bytes)


def test_preparing_twice_gives_the_same_bytes(tmp_path, corpus):
    for vocabulary in (VocabularyConfig(), BPE):
        task = dataclasses.replace(corpus, vocabulary=vocabulary)
        prepare(task, tmp_path / "first")
        prepare(task, tmp_path / "second")
        first, second = (contents(tmp_path / place / task_id(task)) for place in ("first", "second"))
        assert first == second


def test_a_trained_vocabulary_gives_code_back_and_counts_its_bytes(tmp_path, corpus):
    import sentencepiece

    task = dataclasses.replace(corpus, vocabulary=BPE)
    with zipfile.ZipFile(task.source.glob, "a") as archive:
        # what training did not see: control characters, other scripts; and what SentencePiece cannot express
        archive.writestr("z0.txt", "\x00\x01\r\n\t  \N{HIRAGANA LETTER A}\N{GRINNING FACE}\ufeff" + "trailing   \n" * 9)
        archive.writestr("z1.txt", "a literal \u2581 is taken for a space, whatever else the document says about it")
    manifest = prepare(task, tmp_path)
    prepared = open_prepared(task, tmp_path)
    assert manifest.vocab_size == 400
    assert manifest.dropped == {"not_representable": 1}
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / task_id(task) / "vocabulary.model"))
    decoded = set()
    for shards in (prepared.train, prepared.heldout):
        for document in documents_of(shards):
            text = model.decode(document[:-1])
            assert shards.token_bytes[document].sum() == len(text.encode())
            decoded.add(text)
    assert decoded == {text for text in texts_of(task) if "\u2581" not in text}
    assert prepared.train.bytes_per_token > 1.5


def test_a_second_call_returns_at_once_and_a_damaged_folder_is_named(tmp_path, corpus, monkeypatch):
    manifest = prepare(corpus, tmp_path)
    monkeypatch.setattr(prepare_module, "_write", None)
    assert prepare(corpus, tmp_path) == manifest
    shard = tmp_path / task_id(corpus) / manifest.train.shards[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"array_record: its bytes have changed; delete .* prepare again"):
        open_prepared(corpus, tmp_path, verify=True)
    shard.write_bytes(data[:-1])
    with pytest.raises(UserError, match="array_record: missing or not of"):
        prepare(corpus, tmp_path)


def test_failure_leaves_nothing_that_is_taken_for_whole(tmp_path, corpus, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(prepare_module.SplitWriter, "finish", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            prepare(corpus, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f".{task_id(corpus)}.lock"]
    # what a kill leaves, complete as it may look:
    prepare(corpus, tmp_path / "other")
    left = tmp_path / "data" / f".{task_id(corpus)}.partial"
    shutil.copytree(tmp_path / "other" / task_id(corpus), left)
    (left / "stray").write_text("x")
    with pytest.raises(UserError, match="not prepared"):
        open_prepared(corpus, tmp_path / "data")
    prepare(corpus, tmp_path / "data")
    assert not left.exists()
    assert contents(tmp_path / "data" / task_id(corpus)) == contents(tmp_path / "other" / task_id(corpus))


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path, corpus):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    prepare(corpus, tmp_path / "other")  # what is imported and cached is not the question
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"data: file too large, nothing was kept; make room"):
            prepare(corpus, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f".{task_id(corpus)}.lock"]


def test_a_folder_of_another_definition_is_told_apart(tmp_path, corpus):
    prepare(corpus, tmp_path)
    other = dataclasses.replace(corpus, record_tokens=200)
    with pytest.raises(UserError, match=r"not prepared .* record_tokens 100 where 200 is asked"):
        open_prepared(other, tmp_path)
    (tmp_path / task_id(corpus)).rename(tmp_path / task_id(other))
    with pytest.raises(UserError, match=r"prepared with record_tokens 100 where 200 is asked; delete it"):
        open_prepared(other, tmp_path)


def test_vocabularies_must_match_each_other_and_the_model(tmp_path, corpus):
    bpe = dataclasses.replace(corpus, name="bpe", vocabulary=BPE)
    model_file = tmp_path / task_id(bpe) / "vocabulary.model"
    same = dataclasses.replace(
        corpus, name="same", vocabulary=VocabularyConfig("sentencepiece", model_file=str(model_file))
    )
    with pytest.raises(UserError, match=r"model_file .*vocabulary.model: no such file"):
        prepare(same, tmp_path)
    for task in (corpus, bpe, same):
        prepare(task, tmp_path)
    with pytest.raises(UserError, match=r"'small' and 'bpe' have different vocabularies .of 259 and 400 ids"):
        open_mixture(DataConfig((MixtureComponent(corpus), MixtureComponent(bpe)), 16, 4), tmp_path)
    assert len(open_mixture(DataConfig((MixtureComponent(same), MixtureComponent(bpe)), 16, 4), tmp_path, 400)) == 2
    with pytest.raises(UserError, match=r"model.vocab_size is 260, but .* have 259 token ids"):
        open_streams(DataConfig((MixtureComponent(corpus),), 16, 4), tmp_path, 0, 260)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name is 'a/b' and must be letters"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0 and must be between 0 and 1"),
        ({"record_tokens": 1}, "record_tokens is 1 and must be at least 2"),
        ({"near_duplicates": 0.0}, "near_duplicates is 0.0"),
        ({"vocabulary": VocabularyConfig("sentencepiece")}, "vocabulary is .* a size or a model_file"),
        ({"vocabulary": VocabularyConfig("bytes", 300)}, "vocabulary is .* bytes with neither"),
        ({"vocabulary": VocabularyConfig("sentencepiece", 100)}, "vocabulary of size 100: .*choose another size"),
        ({"vocabulary": VocabularyConfig("sentencepiece", 10**6)}, "vocabulary of size 1000000: .*choose another"),
        ({"source": SourceConfig("files", "code", "/nowhere/*.txt")}, "no documents in '/nowhere/"),
    ],
)
def test_a_definition_without_meaning_is_an_error(tmp_path, corpus, changes, message):
    with pytest.raises(UserError, match=message):
        prepare(dataclasses.replace(corpus, **changes), tmp_path)
    assert not list(tmp_path.glob("*/manifest.json"))


def test_seqio_mixture_has_the_rates_of_the_data_config(corpus):
    from scaling.data import tasks

    other = dataclasses.replace(corpus, name="other")
    data = DataConfig((MixtureComponent(corpus, 3.0), MixtureComponent(other, 1.0)), 16, 4)
    vocabulary = tasks.vocabulary(corpus.vocabulary, None)
    texts = {"train": lambda: ["some text"] * 9}
    by_name = {task_id(task): tasks.build_task(task, vocabulary, texts) for task in (corpus, other)}
    mixture = tasks.build_mixture("both", data, by_name)
    rates = [mixture.get_rate(by_name[task_id(part.task)]) for part in data.mixture]
    assert rates == [3.0, 1.0]
    first = next(iter(mixture.get_dataset({"targets": 8}, "train", shuffle=False).as_numpy_iterator()))
    assert first["targets"].tolist() == [byte + 3 for byte in b"some tex"]


@pytest.mark.slow
def test_killed_at_any_moment_it_can_be_done_again(tmp_path, corpus):
    code = (
        "import json, sys, time, pathlib; from scaling.config import *; from scaling.data.prepare import prepare\n"
        "task = from_json(TaskConfig, json.loads(sys.argv[1]))\n"
        "def told(stage, documents, size):\n    print(stage, flush=True); time.sleep(0.02)\n"
        "prepare(task, pathlib.Path(sys.argv[2]), told)\n"
    )
    for stage in ("clean", "train", "heldout"):
        command = [sys.executable, "-c", code, json.dumps(to_json(corpus)), str(tmp_path / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.strip() == stage:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(UserError, match="not prepared"):
            open_prepared(corpus, tmp_path / "data")
    prepare(corpus, tmp_path / "data")
    prepare(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "data" / task_id(corpus)) == contents(tmp_path / "undisturbed" / task_id(corpus))


@pytest.mark.slow
def test_the_standard_library_is_ready_in_a_minute_and_read_at_a_million_tokens_per_second(tmp_path):
    task = task_named("stdlib")
    prepare(task, tmp_path / "warm")
    start = time.process_time()
    manifest = prepare(task, tmp_path / "data")
    assert time.process_time() - start < 40
    assert manifest.dropped["near_duplicate"] > 5
    data = DataConfig((MixtureComponent(task),), 128, 64)
    loader = Loader(open_streams(data, tmp_path / "data", 0, 259), Timeline.start(data))
    start = time.process_time()
    tokens = sum(stack.batch["tokens"].size for stack in loader.iterate(0, 400, stack=16))
    assert tokens / (time.process_time() - start) > 1e6


@pytest.mark.skipif(not SHARED_TEXT.is_dir(), reason="no shared texts on this machine")
def test_prose_in_mixed_encodings_is_prepared(tmp_path):
    source = SourceConfig("files", "prose", str(SHARED_TEXT / "state_union.zip"))
    manifest = prepare(TaskConfig("prose", source), tmp_path)
    assert manifest.dropped["not_utf8"] > 0
    assert manifest.train.bytes > 1_000_000
    data = DataConfig((MixtureComponent(manifest.task),), 128, 64)
    batch = Loader(open_streams(data, tmp_path, 0), Timeline.start(data)).batch(3)
    assert "the" in bytes((batch["tokens"][batch["tokens"] > 2] - 3).astype(np.uint8)).decode(errors="replace")
