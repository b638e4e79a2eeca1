import json
import os
import signal
import subprocess
import sys

import pytest

from scaling import storage
from scaling.errors import UserError


@pytest.fixture
def full_disk(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path, full_disk):
    path = tmp_path / "result.json"
    path.write_text('{"loss": 1}')
    with pytest.raises(UserError, match=r"disk full while writing .*result\.json.*free some space and run the same"):
        storage.write_json(path, {"loss": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert storage.read_json(path) == {"loss": 1}


def test_lines_cut_short_by_a_full_disk_or_a_kill_do_not_count(tmp_path):
    path = tmp_path / "log.jsonl"
    storage.append_lines(path, [{"step": 1}, {"step": 2}])
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert storage.read_lines(path) == [{"step": 1}, {"step": 2}]
    storage.keep_lines(path, lambda row: row["step"] != 1)
    storage.append_lines(path, [{"step": 3}])
    assert path.read_text() == '{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize("damage", [b'{"step": 2', b"\xff\xfe", b""])
def test_a_damaged_line_is_named_with_the_way_out(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=rf"{path} is damaged \(line 2: .*remove the folder {tmp_path} and run"):
        storage.read_lines(path)


@pytest.mark.parametrize("damage", [b'{"step": 2', b"\xff\xfe", b""])
def test_a_damaged_json_file_is_named(tmp_path, damage):
    path = tmp_path / "result.json"
    path.write_bytes(damage)
    with pytest.raises(UserError, match="is damaged"):
        storage.read_json(path)


def test_what_is_not_a_number_is_not_written(tmp_path):
    path = tmp_path / "log.jsonl"
    for write in (storage.append_lines, storage.write_lines, storage.write_json):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, [{"loss": float("nan")}])
    assert storage.read_lines(path) == []


def test_numbers_come_back_bit_by_bit(tmp_path):
    numbers = [0.1 + 0.2, 1e-320, 2.220446049250313e-16, 1 / 3]
    storage.append_lines(tmp_path / "log.jsonl", [{"x": x} for x in numbers])
    storage.keep_lines(tmp_path / "log.jsonl", lambda row: True)
    assert [row["x"] for row in storage.read_lines(tmp_path / "log.jsonl")] == numbers


def test_lock_keeps_a_second_process_out_and_falls_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "run" / "lock"
    code = (
        "import sys, time; from pathlib import Path; from scaling.storage import try_lock\n"
        "with try_lock(Path(sys.argv[1])) as locked:\n    print(locked, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with storage.try_lock(path) as locked:
            assert not locked
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with storage.try_lock(path) as locked:
        assert locked
        with storage.try_lock(path) as again:
            assert not again
    with storage.try_lock(path) as locked:
        assert locked


def test_json_lines_are_one_object_a_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a\u2028b\nc"}, {"text": "\x85"}]  # str.splitlines would cut at these
    storage.write_lines(path, rows)
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == rows
    assert storage.read_lines(path) == rows


def test_lists_of_numbers_take_one_line_and_nothing_else_changes(tmp_path):
    data = {
        "draws": [1.5, -2e-30, 3],
        "pairs": [[1, 2], [3, None]],
        "names": ["[\n 1\n]", "a"],
        "none": [],
        "rows": [{"a": [1]}],
    }
    storage.write_json(tmp_path / "a.json", data)
    text = (tmp_path / "a.json").read_text()
    assert storage.read_json(tmp_path / "a.json") == data
    assert ' "draws": [1.5, -2e-30, 3],' in text.splitlines()
    assert "  [3, null]" in text.splitlines()
    assert '  "a"' in text.splitlines()
