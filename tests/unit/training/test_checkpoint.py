"""Checkpoints: all meshes, all kinds of damage."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.training.checkpoint import (
    Checkpoints,
    DamagedError,
    Meta,
    newest_params,
    read_meta,
)
from bert_jax.training.checksums import checksums, digest
from bert_jax.training.metadata import _signed
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import Steps
from pipelines.models.open import network_of
from support.commands import small_disk


@pytest.fixture
def make(config: RunConfig) -> partial[TrainState]:
    return partial(init_state, config.model, Steps.of(config).optimizer, config.seed)


@pytest.fixture
def folder(tmp_path: Path, make: partial[TrainState], all_devices: Partitioner) -> Path:
    """Return a run with valid checkpoints at steps 1 and 2."""
    state = all_devices.build(make)
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        state = jax.tree.map(lambda x: x + 1, state)
        checkpoints.save(state, Meta(step=step, tokens=10 * step))
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def restore(
    folder: Path, make: partial[TrainState], partitioner: Partitioner
) -> tuple[TrainState, Meta] | None:
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(partitioner.abstract_state(make), lambda meta: None)
    finally:
        checkpoints.close()


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_checkpoint_of_eight_devices_restores_on_any(
    folder: Path, make: partial[TrainState], count: int
) -> None:
    result = restore(folder, make, Partitioner(devices()[:count]))
    assert result is not None
    state, meta = result
    assert (meta.step, meta.tokens, int(state.step)) == (2, 20, 2)
    expected = jax.tree.map(lambda x: x + 1 + 1, jax.jit(make)())
    same = jax.tree.map(
        lambda a, b: bool((np.array(a) == np.array(b)).all()), state.params, expected.params
    )
    assert all(jax.tree.leaves(same))
    assert digest(state.params) == digest(expected.params)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {count}


def data_files(folder: Path, step: int) -> list[Path]:
    files = (folder / "checkpoints" / str(step)).rglob("*")
    return sorted(path for path in files if path.is_file() and path.stat().st_size)


def test_any_flipped_bit_of_a_checkpoint_is_detected(
    folder: Path,
    make: partial[TrainState],
    all_devices: Partitioner,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    files = data_files(folder, 2)
    sizes = np.array([path.stat().st_size for path in files])
    good = restore(folder, make, all_devices)
    assert good is not None
    detected = 0
    # The files contain a varying amount of old data that nothing reads, because Orbax writes in
    # several passes.
    for _ in range(100):
        path = files[rng.choice(len(files), p=sizes / sizes.sum())]
        original = path.read_bytes()
        content = bytearray(original)
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        result = restore(folder, make, all_devices)
        assert result is not None
        state, meta = result
        if meta.step == 2:
            assert meta == good[1]
            for leaf, expected in zip(*map(jax.tree.leaves, (state, good[0])), strict=True):
                assert (np.array(leaf) == np.array(expected)).all()
        else:
            detected += 1
            assert meta.step == 1
            assert "checkpoint 2 is damaged" in capsys.readouterr().err
            (folder / "checkpoints" / "2.damaged").rename(folder / "checkpoints" / "2")
        path.write_bytes(original)
        if detected == 2:
            break
    assert detected == 2


@pytest.mark.parametrize(
    "damage",
    [
        "garble",
        *(pytest.param(kind, marks=pytest.mark.full) for kind in ("cut", "empty", "delete")),
    ],
)
def test_damage_of_any_file_of_a_checkpoint_is_survived(
    folder: Path, make: partial[TrainState], all_devices: Partitioner, damage: str, tmp_path: Path
) -> None:
    """The step restores unchanged, or it is refused and the previous one restores."""
    backup = shutil.copytree(folder / "checkpoints", tmp_path / "backup")
    expected = digest(jax.tree.map(lambda x: x + 1 + 1, jax.jit(make)()).params)
    refused = 0
    for path in data_files(folder, 2):
        content = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            middle = len(content) // 2
            damaged = {
                "cut": content[:middle],
                "empty": b"",
                "garble": content[:middle] + b"\0\xff" * 9,
            }
            path.write_bytes(damaged[damage])
        result = restore(folder, make, all_devices)
        assert result is not None, path
        state, meta = result
        refused += meta.step == 1
        assert meta.step == 1 or digest(state.params) == expected, path
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(backup, folder / "checkpoints")
    assert refused >= 3


def test_any_changed_bit_of_the_metadata_is_detected(
    folder: Path, make: partial[TrainState], all_devices: Partitioner
) -> None:
    """A changed step, seed or setting is refused, and the previous step restores."""
    path = folder / "checkpoints" / "2" / "meta" / "metadata"
    original = path.read_bytes()
    for offset in range(0, len(original), 97):
        changed = bytearray(original)
        changed[offset] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            read_meta(path.parent.parent)
    path.write_bytes(original.replace(b'"step": 2', b'"step": 3'))
    result = restore(folder, make, all_devices)
    assert result is not None
    assert result[1].step == 1


def test_a_checkpoint_under_another_number_is_refused(folder: Path) -> None:
    shutil.copytree(folder / "checkpoints" / "1", folder / "checkpoints" / "7")
    with pytest.raises(DamagedError, match="saved as step 1"):
        read_meta(folder / "checkpoints" / "7")


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(13, "no"), ValueError("RESOURCE_EXHAUSTED: memory")]
)
def test_errors_other_than_damage_rename_nothing(
    folder: Path,
    make: partial[TrainState],
    all_devices: Partitioner,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
    with pytest.raises(type(error)):
        checkpoints.restore(all_devices.abstract_state(make), lambda meta: None)
    assert not list(folder.rglob("*.damaged"))


def test_if_all_checkpoints_are_damaged_nothing_changes(
    folder: Path, make: partial[TrainState], all_devices: Partitioner
) -> None:
    for step in (1, 2):
        max(data_files(folder, step), key=lambda path: path.stat().st_size).write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(
            BadInputError, match=r"no checkpoint .* can be read; nothing was changed"
        ):
            restore(folder, make, all_devices)
    assert not list(folder.rglob("*.damaged"))
    with pytest.raises(BadInputError, match="no checkpoint"):
        newest_params(folder, lambda meta: all_devices.abstract_state(make).params)


def test_reading_parameters_renames_nothing(
    folder: Path, make: partial[TrainState], all_devices: Partitioner
) -> None:
    max(data_files(folder, 2), key=lambda path: path.stat().st_size).write_bytes(b"x")
    params, meta = newest_params(folder, lambda meta: all_devices.abstract_state(make).params)
    assert meta.step == 1
    assert digest(params) == digest(jax.tree.map(lambda x: x + 1, jax.jit(make)()).params)
    assert (folder / "checkpoints" / "2").is_dir()


def test_checksums_detect_flipped_bits_and_swaps() -> None:
    array = np.random.default_rng(0).normal(size=97).astype(np.float32)
    compute = jax.jit(checksums)

    def sums(values: np.ndarray) -> list[int]:
        return np.array(compute({"x": jnp.array(values)})["x"]).tolist()

    base = sums(array)
    words = array.view(np.uint32)
    for position in (0, 1, 50, 96):
        for bit in range(32):
            changed = words.copy()
            changed[position] ^= np.uint32(1 << bit)
            assert sums(changed.view(np.float32)) != base
    swapped = array.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert sums(swapped) != base
    halves = {"x": jnp.array(array).astype(jnp.bfloat16), "n": jnp.arange(3)}
    assert set(compute(halves)) == {"x", "n"}


def test_old_steps_are_removed_and_the_best_is_kept(
    tmp_path: Path, make: partial[TrainState]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=True)
    state = make()
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 4.0], start=1):
        checkpoints.save(state, Meta(step=step), loss)
    checkpoints.wait()
    checkpoints.close()
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"2", "4", "5"}


def test_a_full_disk_is_reported_in_one_line_and_costs_no_saved_step(
    tmp_path: Path, make: partial[TrainState], all_devices: Partitioner
) -> None:
    with small_disk(tmp_path / "disk", "size=1200k") as disk:
        checkpoints = Checkpoints(disk)
        # Random bits do not compress; clearing one bit excludes infinity and NaN.
        bits = np.random.default_rng(0).integers(0, 2**32, 60_000, dtype=np.uint32)
        bits &= ~np.uint32(1 << 30)
        noise = jnp.array(bits.view(np.float32))
        step = all_devices.build(make).step
        state = TrainState(step, {"noise": noise}, {"noise": noise[::-1]})
        checkpoints.save(state, Meta(step=1))
        checkpoints.save(state, Meta(step=2))
        with pytest.raises(UserError, match=r"disk is full.* Step 2 is safe"):
            checkpoints.save(state, Meta(step=3))
        checkpoints.close()
        again = Checkpoints(disk)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        result = again.restore(abstract, lambda meta: None)
        again.close()
        assert result is not None
        assert digest(result[0].params) == digest(state.params)


def test_any_failed_save_is_reported_in_one_line(
    tmp_path: Path, make: partial[TrainState], capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints, state = Checkpoints(tmp_path / "run"), make()
    checkpoints.save(state, Meta(step=1))
    checkpoints.wait()
    (tmp_path / "run").rename(tmp_path / "elsewhere")

    def save() -> None:
        checkpoints.save(state, Meta(step=2))
        checkpoints.wait()

    with pytest.raises(
        UserError, match=r"step 2 could not be saved .*; fix the cause and run the same"
    ):
        save()
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err


def test_after_a_failed_save_the_process_can_end(
    tmp_path: Path, make: partial[TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of Orbax that wait for the failed one must not delay the exit."""
    make_folder = os.mkdir

    def mkdir(path: str | Path, *options: int) -> None:
        if "params" in Path(path).name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        make_folder(path, *options)

    before = set(threading.enumerate())
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(os, "mkdir", mkdir)
    checkpoints.save(make(), Meta(step=1))
    with pytest.raises(UserError, match="the disk is full"):
        checkpoints.wait()
    checkpoints.close()
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            threading.Thread.join(thread, 10)  # that of Orbax raises an error
            assert not thread.is_alive()
    del checkpoints, thread
    gc.collect()  # now, while its warnings are ignored


def test_a_changed_clock_does_not_end_a_save(
    tmp_path: Path, make: partial[TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours, now = count(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * next(hours))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(make(), Meta(step=1))
    checkpoints.wait()
    checkpoints.close()


def test_closing_does_not_hide_an_earlier_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax raises the error of the newest save in close."""

    def close() -> None:
        raise ValueError("RESOURCE_EXHAUSTED: a page of words")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "close", close)
    checkpoints.close()


def change_metadata(folder: Path, **values: object) -> None:
    """Change values of the metadata and correct its hash."""
    path = folder / "checkpoints/2/meta/metadata"
    content = json.loads(path.read_text("utf-8")) | values
    del content["sha256"]
    path.write_text(json.dumps(_signed(content)), "utf-8")


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", "10"), ("config", []), ("labels", [1]), ("parts", None), ("architecture", 3)],
)
def test_metadata_of_wrong_types_is_damage(folder: Path, name: str, value: object) -> None:
    change_metadata(folder, **{name: value})
    with pytest.raises(DamagedError, match=f"{name} is|not a string"):
        read_meta(folder / "checkpoints/2")


def test_metadata_of_another_network_is_refused(folder: Path) -> None:
    for config, word in (({}, "network"), ({"model": {"vocab_size": None}}, "vocab_size")):
        change_metadata(folder, config=config)
        with pytest.raises(BadInputError, match=word):
            network_of(read_meta(folder / "checkpoints/2")[0], folder)
    change_metadata(folder, architecture="GPT")
    with pytest.raises(BadInputError, match="GPT"):
        network_of(read_meta(folder / "checkpoints/2")[0], folder)


def test_a_pipe_instead_of_metadata_is_refused(folder: Path) -> None:
    path = folder / "checkpoints/2/meta/metadata"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedError, match="pipe or device"):
        read_meta(folder / "checkpoints/2")
