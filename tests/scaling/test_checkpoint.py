import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from scaling import checkpoint, storage
from scaling.checkpoint import Checkpoints
from scaling.errors import UserError


def state_of(step):
    rng = np.random.default_rng(step)
    return {"w": jnp.asarray(rng.standard_normal((8, 8)), jnp.float32), "step": jnp.int32(step)}


def save(checkpoints, step, keep=True):
    checkpoints.save(step, state_of(step), {"step": step}, {"from": "here"}, keep)


def assert_holds(checkpoints, step):
    state, position, provenance = checkpoints.restore(step, state_of(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: (np.asarray(a) == np.asarray(b)).all(), state, state_of(step)))
    assert (position, provenance) == ({"step": step}, {"from": "here"})


@pytest.fixture
def two(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 10)
    save(checkpoints, 20)
    return Checkpoints(tmp_path / "checkpoints")


def test_what_is_restored_is_what_was_saved(two):
    assert two.steps() == [10, 20]
    assert two.newest() == 20
    assert two.newest(19) == 10
    assert two.newest(9) is None
    assert_holds(two, 10)
    assert_holds(two, 20)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_byte_in_any_file_is_noticed_and_named(two):
    for path in (path for path in files_of(two.directory / "20") if path.stat().st_size):
        before = path.read_bytes()
        flip_a_byte(path)
        assert two.problem(20) == f"{path.relative_to(two.directory / '20')} does not have the content that was written"
        path.write_bytes(before)
    assert two.problem(20) is None


def data_file(folder):
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def truncate(folder):
    path = data_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def manifest_of(folder):
    return folder.with_name(f"{folder.name}.sha256.json")


DAMAGE = {
    "truncated": truncate,
    "flipped byte": lambda folder: flip_a_byte(data_file(folder)),
    "deleted file": lambda folder: data_file(folder).unlink(),
    "foreign file": lambda folder: (folder / "foreign").write_text("x"),
    "manifest is no JSON": lambda folder: manifest_of(folder).write_text('{"keep": tru'),
    "manifest is other JSON": lambda folder: manifest_of(folder).write_text("[]"),
    "manifest is empty": lambda folder: manifest_of(folder).write_text(""),
    "empty folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(two, damage):
    damage(two.directory / "20")
    assert not two.is_intact(20)
    with pytest.warns(UserWarning, match=r"checkpoint 20 .*is damaged .*set aside as damaged-20") as caught:
        assert two.newest() == 10
    assert len(caught) == 1
    assert (two.directory / "damaged-20").is_dir()
    assert two.steps() == [10]
    assert_holds(two, 10)
    save(two, 20)
    assert two.newest() == 20


def test_all_damaged_is_none(two):
    for step in (10, 20):
        truncate(two.directory / str(step))
    with pytest.warns(UserWarning, match="damaged"):
        assert two.newest() is None


def test_what_has_no_manifest_is_not_there_and_is_cleaned_away(two):
    manifest_of(two.directory / "20").unlink()
    (two.directory / "30.orbax-checkpoint-tmp").mkdir()
    (two.directory / "40").mkdir()
    (two.directory / ".50.sha256.json.77.tmp").write_text("{")
    assert two.newest() == 10
    two.clean()
    assert sorted(path.name for path in two.directory.iterdir()) == ["10", "10.sha256.json"]


class Killed(BaseException):
    pass


def killed_before(module, name, monkeypatch):
    def kill(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(module, name, kill)


def killed_after(module, name, monkeypatch):
    original = getattr(module, name)

    def kill(*args, **kwargs):
        original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(module, name, kill)


KILLS = {
    "before orbax writes": (killed_before, ocp.Checkpointer, "save"),
    "before the digests": (killed_before, checkpoint, "_digests"),
    "before the manifest": (killed_before, storage, "write_json"),
    "inside the manifest's write": (killed_before, storage.os, "fsync"),
}


@pytest.mark.parametrize("step", [30, 20])
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
def test_killed_inside_save_the_checkpoint_before_stands(two, monkeypatch, kill, step):
    how, module, name = kill
    with monkeypatch.context() as patch:
        how(module, name, patch)
        with pytest.raises(Killed):
            save(two, step)
    again = Checkpoints(two.directory)
    again.clean()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is damaged: it was never whole
        assert again.newest() == (20 if step == 30 else 10)
    save(again, step)
    assert_holds(again, step)


def test_killed_right_after_orbax_the_step_does_not_count(two, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(ocp.Checkpointer, "save", patch)
        with pytest.raises(Killed):
            save(two, 30)
    again = Checkpoints(two.directory)
    assert (two.directory / "30").is_dir()
    assert again.newest() == 20
    again.clean()
    assert not (two.directory / "30").exists()


def test_those_for_a_crash_only_go_when_a_later_one_stands_whoever_wrote_them(two):
    save(two, 23, keep=False)
    save(two, 27, keep=False)
    assert two.steps() == [10, 20, 27]
    again = Checkpoints(two.directory)  # the next process
    save(again, 25, keep=False)
    assert again.steps() == [10, 20, 25, 27]  # 27 is later: not in vain
    again.keep(25)
    save(again, 30)
    assert again.steps() == [10, 20, 25, 30]


@pytest.mark.parametrize("where", ["orbax", "manifest"])
def test_disk_full_is_a_sentence_and_leaves_nothing_that_counts(two, monkeypatch, where):
    def orbax_full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [os_error_code='28']")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "orbax":
            patch.setattr(ocp.Checkpointer, "save", orbax_full)
        else:
            patch.setattr(storage.os, "fsync", full)
        with pytest.raises(UserError, match=r"disk full while writing .*30.*: nothing half-written will be used"):
            save(two, 30)
    assert Checkpoints(two.directory).newest() == 20


def test_other_errors_are_not_called_a_full_disk(two, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("something else")

    monkeypatch.setattr(ocp.Checkpointer, "save", broken)
    with pytest.raises(ValueError, match="something else"):
        save(two, 30)
