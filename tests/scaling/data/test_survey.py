import dataclasses
import zipfile

import pytest
from data_builders import code_documents, task_named

from scaling.config import SourceConfig, TaskConfig
from scaling.data.sources import documents
from scaling.data.survey import DROPPED, HELDOUT, TRAIN, survey
from scaling.errors import UserError


def ignore(documents, size):
    pass


def test_no_unit_of_the_standard_library_is_in_both_splits():
    task = task_named("code", near_duplicates=1.0)
    found = survey(task, ignore)
    units = {TRAIN: set(), HELDOUT: set(), DROPPED: set()}
    sizes = dict.fromkeys(units, 0)
    for document, fate in zip(documents(task.source), found.fates, strict=True):
        units[fate].add(document.unit)
        sizes[fate] += len(document.text.encode())
    assert units[TRAIN].isdisjoint(units[HELDOUT])
    assert (set(found.units[TRAIN]), set(found.units[HELDOUT])) == (units[TRAIN], units[HELDOUT])
    assert 0.02 < len(units[HELDOUT]) / len(units[TRAIN] | units[HELDOUT]) < 0.08
    assert found.kept_bytes == sizes[TRAIN] + sizes[HELDOUT]
    assert found.dropped["exact_duplicate"] >= 1


def test_what_is_dropped_is_counted(tmp_path):
    texts = list(code_documents(40))
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, text in enumerate(texts):
            archive.writestr(f"{number:03d}.txt", text)
        archive.writestr("900.txt", texts[3])
        archive.writestr("901.txt", texts[4] + "\n# one more line")
        archive.writestr("902.txt", "short")
        archive.writestr("903.txt", b"\xff\xfe")
    task = TaskConfig("x", SourceConfig("files", "code", str(path)), heldout_fraction=0.1)
    found = survey(task, ignore)
    assert found.dropped == {"exact_duplicate": 1, "near_duplicate": 1, "not_utf8": 1, "too_short": 1}
    assert found.fates.count(DROPPED) == 3
    assert found.section_size == 0
    assert HELDOUT in found.fates


def test_the_split_of_a_document_does_not_depend_on_the_others(tmp_path, corpus):
    smaller = tmp_path / "smaller.zip"
    with zipfile.ZipFile(corpus.source.glob) as old, zipfile.ZipFile(smaller, "w") as new:
        for name in old.namelist()[10:]:
            new.writestr(name, old.read(name))
    other = dataclasses.replace(corpus, source=dataclasses.replace(corpus.source, glob=str(smaller)))
    assert survey(other, ignore).fates == survey(corpus, ignore).fates[10:]


def test_one_long_text_is_cut_so_that_some_is_held_out(tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(code_documents(200)))
    task = TaskConfig("long", SourceConfig("files", "code", str(tmp_path / "*.txt")), heldout_fraction=0.1)
    found = survey(task, ignore)
    size = sum(len(document.text.encode()) for document in documents(task.source))
    assert found.section_size == size // 40 > 2048  # four times as many as a tenth needs
    assert len(found.units[TRAIN]) > 3 * len(found.units[HELDOUT]) > 0
    assert "1 document(s) are too few" in found.notes[0]


def test_a_corpus_of_one_short_text_is_an_error(tmp_path):
    (tmp_path / "one.txt").write_text("x" * 100)
    task = TaskConfig("one", SourceConfig("files", "code", str(tmp_path / "*.txt")))
    with pytest.raises(UserError, match=r"1 document.s. of at least 64 bytes .* held-out split needs two"):
        survey(task, ignore)


def test_a_bucket_holds_documents_of_its_lengths_alone(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, size in enumerate([50, 100, 101, 150, 151, 152, 400]):
            archive.writestr(f"{number}.txt", f"{number}" * size)
    source = SourceConfig("files", "d", str(path))
    task = TaskConfig("bucket", source, heldout_fraction=0.5, near_duplicates=1.0, min_bytes=101, max_bytes=150)
    found = survey(task, ignore)
    assert [fate != DROPPED for fate in found.fates] == [False, False, True, True, False, False, False]
    assert found.dropped == {"too_short": 2, "too_long": 3}
