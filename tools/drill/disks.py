"""Disks that are full, locked, slow or broken: small file systems, calls that strace lets fail."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from support.corpora import write_corpus
from support.process_harness import Circumstances, Life
from tools.drill.report import Row
from tools.drill.stage import (
    EVERY,
    STEPS,
    Fault,
    Stage,
    content_of,
    expect,
    newest_checkpoint,
    unlike,
)
from tools.drill.tally import Tally, ended

_TRIES = 5
_LARGE = "size=60m,nr_inodes=10000"
_STEPS_SLOW = 15  # of a run on a slow disk

_PR_SET_PTRACER = 0x59616D61
_tracers: list[subprocess.Popen[bytes]] = []  # of this process, for as long as it lives


@cache
def _mount_refused() -> str:
    """Why no file system can be mounted here; empty if one can."""
    with TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "none", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "this user may not mount a file system"
        subprocess.run(["umount", folder], check=True)
    return ""


@cache
def _trace_refused() -> str:
    """Why no calls can be made to fail here; empty if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = ["strace", "-f", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"]
    done = subprocess.run(probe, capture_output=True, check=False)
    return "this user may not trace a process" if done.returncode else ""


@contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = place / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def remount(folder: Path, options: str) -> None:
    """Changes it while it is in use."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _unless(
    refused: Callable[[], str],
    trial: Callable[[str, Stage, Random], Row],
    name: str,
    stage: Stage,
    rng: Random,
) -> Row:
    reason = refused()
    return Row(name, skipped=reason) if reason else trial(name, stage, rng)


def _small(bytes_: int, files: int, rng: Random) -> str:
    """A size that may be too small for so much, in bytes or in files."""
    if rng.random() < 0.2:
        return f"size=60m,nr_inodes={rng.randint(4, files)}"
    return f"size={int(bytes_ * rng.uniform(0.01, 1.1)) >> 10}k,nr_inodes=10000"


def _size(folder: Path) -> tuple[int, int]:
    files = [path.stat() for path in folder.rglob("*")]
    return sum(file.st_size + 4096 for file in files), len(files)


def _large_store(stage: Stage) -> tuple[Path, Path]:
    """A corpus, and the store of it."""
    place = stage.place()
    corpus = write_corpus(place / "text.txt", 4000)
    expect(stage.prepare(place, place / "store", corpus, workers=2), 0)
    return corpus, place / "store"


def prepare_fills_it(name: str, stage: Stage, rng: Random) -> Row:
    """A store is made on a disk that may be too small, and again when it has become larger."""
    corpus, whole = stage.kept("large store", partial(_large_store, stage))
    tally, expected = Tally(name), content_of(whole)
    for _ in range(_TRIES):
        place = stage.place()
        options = _small(int(1.5 * _size(whole)[0]), _size(whole)[1] + 5, rng)
        with disk(place, options) as small:
            life = stage.prepare(place, small / "store", corpus, workers=2)
            complaints = [ended(life, 0, 78)]
            message = life.last_line if life.end() else ""
            if message and not ("space" in message and "same command" in message):
                complaints.append(f"it said: {message}")
            remount(small, _LARGE)
            again = stage.prepare(place, small / "store", corpus, workers=2)
            complaints.append(ended(again, 0) or unlike(small / "store", expected))
            tally.judge(options, *complaints, message=message, struck=life.end() != 0)
        stage.remove(place)
    return tally.row()


def _went_on(run_dir: Path, life: Life, codes: tuple[int, ...]) -> tuple[list[str], str, int]:
    """Judges a run that was in trouble: complaints, message and lost steps."""
    complaints = [ended(life, *codes)]
    message = life.last_line if life.end() > 0 else ""
    lost = 0 if life.end() == 0 else max(0, life.steps - newest_checkpoint(run_dir))
    complaints.append(f"{lost} steps lost" if lost > 2 * EVERY else "")
    return complaints, message, lost


def _again(stage: Stage, place: Path, run_dir: Path) -> list[str]:
    life = stage.pretrain(place, run_dir)
    complaint = ended(life, 0)
    return [f"again: {complaint}" if complaint else stage.complaint(run_dir)]


def run_fills_it(name: str, stage: Stage, rng: Random) -> Row:
    """A run on a disk that may be too small; it goes on when it has become larger."""
    place, tally = stage.place(), Tally(name)
    options = _small(int(1.3 * _size(stage.folder / "undisturbed")[0]), 200, rng)
    with disk(place, options) as small:
        run_dir = small / "run"
        life = stage.pretrain(place, run_dir)
        complaints, message, lost = _went_on(run_dir, life, (0, 1))
        if message and not (
            "same command" in message and ("full" in message or "space" in message)
        ):
            complaints.append(f"it said: {message}")
        remount(small, _LARGE)
        complaints += _again(stage, place, run_dir)
        tally.judge(options, *complaints, message=message, lost=lost, struck=life.end() != 0)
    return tally.closed(stage, place)


def filled_by_others(name: str, stage: Stage, rng: Random) -> Row:
    """Something else fills the disk of a run at a random step."""
    place, tally = stage.place(), Tally(name)
    with disk(place, _LARGE) as small:
        run_dir, filler = small / "run", small / "filler"
        step = rng.randint(1, STEPS - 8)
        life = stage.pretrain(place, run_dir)
        life.reaches("step", step)
        _fill(filler)
        complaints, message, lost = _went_on(run_dir, life, (1,))
        filler.unlink()
        complaints += _again(stage, place, run_dir)
        tally.judge(f"at step {step}", *complaints, message=message, lost=lost)
    return tally.closed(stage, place)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def read_only(name: str, stage: Stage, rng: Random) -> Row:
    """A run folder that can only be read: before the run, and between two sittings of it."""
    place, tally = stage.place(), Tally(name)
    with disk(place, _LARGE) as locked:
        run_dir = locked / "run"
        remount(locked, "ro")
        life = stage.pretrain(place, run_dir)
        tally.judge("new", ended(life, 78), message=life.last_line)
        remount(locked, "rw")
        life = stage.pretrain(place, run_dir)
        life.reaches("step", rng.randint(EVERY, STEPS - 5))
        life.strike(signal.SIGKILL)
        life.end()
        remount(locked, "ro")
        life = stage.pretrain(place, run_dir)
        complaint = ended(life, 78)
        remount(locked, "rw")
        complaints = _again(stage, place, run_dir)
        tally.judge("going on", complaint, *complaints, message=life.last_line)
    return tally.closed(stage, place)


def moved_away(name: str, stage: Stage, rng: Random) -> Row:
    """The folder of a run gets another name while it trains, and its old one back."""
    place, tally = stage.place(), Tally(name)
    run_dir, elsewhere = place / "run", place / "elsewhere"
    life = stage.pretrain(place, run_dir)
    step = rng.randint(1, STEPS - 8)
    life.reaches("step", step)
    run_dir.rename(elsewhere)
    complaint = ended(life, 1, 78)
    message, reached = life.last_line, life.steps
    shutil.rmtree(run_dir, ignore_errors=True)  # Orbax may have made folders for its next step
    elsewhere.rename(run_dir)
    lost = reached - newest_checkpoint(run_dir)
    # A save that fails is only heard of at the next one.
    far = f"{lost} steps lost" if lost > 2 * EVERY else ""
    complaints = _again(stage, place, run_dir)
    tally.judge(f"at step {step}", complaint, far, *complaints, message=message, lost=lost)
    return tally.closed(stage, place)


def trace(told: Path, *arguments: str) -> None:
    """Has strace look at this process, and what it starts, from here on; it writes to `told`."""
    # Some systems let nobody trace a process but its parents.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    command = ["strace", "-f", "-qq", "-o", str(told), *arguments, "-p", str(os.getpid())]
    _tracers.append(subprocess.Popen(command))
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text("utf-8"):
        if _tracers[-1].poll() is not None:
            raise RuntimeError("strace does not trace")
        time.sleep(0.01)


# What a run does with its folder, and how often about.
_CALLS = {"fsync": 300, "writev": 150, "rename": 80, "mkdir": 40, "unlink": 30, "write": 30}


def _failing(run_dir: Path, rng: Random) -> tuple[str, ...]:
    """Options with which a random call fails, once or from then on."""
    call, error = rng.choice(list(_CALLS)), rng.choice(["EIO", "ENOSPC", "EROFS", "EDQUOT"])
    # Counted for each thread; some have few.
    first = rng.randint(1, max(2, int(_CALLS[call] * rng.random())))
    rule = f"inject={call}:error={error}:when={first}{rng.choice(['', '+'])}"
    # Other files and pipes are written to as well.
    only = ("-P", str(run_dir / "metrics.jsonl")) if call == "write" else ()
    return ("-e", f"trace={call}", "-e", rule, *only)


def broken(name: str, stage: Stage, rng: Random) -> Row:
    """A random call of a run fails; it says so, or does without; then the disk is mended."""
    place, tally = stage.place(), Tally(name)
    run_dir, told = place / "run", place / "calls"
    options = _failing(run_dir, rng)
    before = partial(trace, told, *options)
    life = stage.pretrain(place, run_dir, under=Circumstances(before=before))
    complaints, message, lost = _went_on(run_dir, life, (0, 1, 78))
    struck = "(INJECTED)" in told.read_text("utf-8", "replace")
    complaints.append("no call failed, but it did" if life.end() and not struck else "")
    complaints += _again(stage, place, run_dir)
    tally.judge(options[3], *complaints, message=message, lost=lost, struck=struck)
    return tally.closed(stage, place)


def slow(name: str, stage: Stage, rng: Random) -> Row:
    """A save that takes long is cut off by SIGKILL."""
    place, tally = stage.place(), Tally(name)
    run_dir = place / "run"
    milliseconds = rng.randint(1, 20)
    delay = f"inject=fsync,writev,rename,mkdir:delay_enter={milliseconds}000"
    options = ("-e", "trace=fsync,writev,rename,mkdir", "-e", delay)
    before = partial(trace, Path(os.devnull), *options)
    life = stage.pretrain(place, run_dir, under=Circumstances(before=before))
    life.reaches("save", rng.randint(1, 3))
    time.sleep(rng.uniform(0, 40 * milliseconds / 1000))
    life.strike(signal.SIGKILL)
    complaints, _, lost = _went_on(run_dir, life, (-signal.SIGKILL,))
    complaints += _again(stage, place, run_dir)
    tally.judge(f"{milliseconds} ms", *complaints, lost=lost)
    return tally.closed(stage, place)


def faults() -> Iterator[Fault]:
    """All of them."""
    for name, refused, trial, jobs, quick in (
        ("disk full in prepare", _mount_refused, prepare_fills_it, 2, 0),
        ("disk full in a run", _mount_refused, run_fills_it, 6, 0),
        ("disk filled by others", _mount_refused, filled_by_others, 4, 1),
        ("disk read-only", _mount_refused, read_only, 2, 0),
        ("run folder moved away", str, moved_away, 2, 0),
        ("disk with failing calls", _trace_refused, broken, 5, 0),
        ("SIGKILL while a slow disk saves", _trace_refused, slow, 2, 0),
    ):
        yield Fault(name, partial(_unless, refused, trial, name), jobs, quick)
