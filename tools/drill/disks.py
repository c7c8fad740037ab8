"""Full, read-only, slow and broken disks: small file systems, system calls that strace fails."""

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
from support.process_harness import Environment, Process
from tools.drill.fixture import (
    EVERY,
    STEPS,
    Fault,
    Fixture,
    content_difference,
    content_of,
    expect_exit,
    newest_checkpoint,
)
from tools.drill.report import Row
from tools.drill.results import Results, exit_problem

_TRIES = 5
_LARGE = "size=60m,nr_inodes=10000"

_PR_SET_PTRACER = 0x59616D61
_tracers: list[subprocess.Popen[bytes]] = []  # of this process; they run until it ends


@cache
def _mount_refused() -> str:
    """Return why no file system can be mounted here; empty if one can."""
    with TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "none", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "this user may not mount a file system"
        subprocess.run(["umount", folder], check=True)
    return ""


@cache
def _trace_refused() -> str:
    """Return why system calls cannot be made to fail here; empty if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = ["strace", "-f", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"]
    result = subprocess.run(probe, capture_output=True, check=False)
    return "this user may not trace a process" if result.returncode else ""


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory."""
    mounted = folder / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(mounted)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True, capture_output=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def _skip_if(
    reason_of: Callable[[], str],
    trial: Callable[[str, Fixture, Random], Row],
    name: str,
    fixture: Fixture,
    rng: Random,
) -> Row:
    reason = reason_of()
    return Row(name, skipped=reason) if reason else trial(name, fixture, rng)


def _small_disk(byte_count: int, file_count: int, rng: Random) -> str:
    """Return options for a disk that may be too small, in bytes or in files."""
    if rng.random() < 0.2:
        return f"size=60m,nr_inodes={rng.randint(4, file_count)}"
    return f"size={int(byte_count * rng.uniform(0.01, 1.1)) >> 10}k,nr_inodes=10000"


def _size(folder: Path) -> tuple[int, int]:
    files = [path.stat() for path in folder.rglob("*")]
    return sum(file.st_size + 4096 for file in files), len(files)


def _large_store(fixture: Fixture) -> tuple[Path, Path]:
    """Return a corpus and its store."""
    folder = fixture.new_folder()
    corpus = write_corpus(folder / "text.txt", 4000)
    expect_exit(fixture.prepare(folder, folder / "store", corpus, workers=2), 0)
    return corpus, folder / "store"


def fill_in_prepare(name: str, fixture: Fixture, rng: Random) -> Row:
    """Prepare a store on a disk that may be too small; enlarge the disk and repeat the command."""
    corpus, store = fixture.cached("large store", partial(_large_store, fixture))
    results, expected = Results(name), content_of(store)
    for _ in range(_TRIES):
        folder = fixture.new_folder()
        options = _small_disk(int(1.5 * _size(store)[0]), _size(store)[1] + 5, rng)
        with disk(folder, options) as small:
            process = fixture.prepare(folder, small / "store", corpus, workers=2)
            problems = [exit_problem(process, 0, 78)]
            message = process.last_line if process.wait() else ""
            if message and not ("space" in message and "same command" in message):
                problems.append(f"message: {message}")
            remount(small, _LARGE)
            again = fixture.prepare(folder, small / "store", corpus, workers=2)
            problems.append(exit_problem(again, 0) or content_difference(small / "store", expected))
            results.add(options, *problems, message=message, triggered=process.wait() != 0)
        shutil.rmtree(folder)
    return results.row()


def _check_end(
    run_dir: Path, process: Process, codes: tuple[int, ...]
) -> tuple[list[str], str, int]:
    """Check the end of a run; return problems, message and lost steps."""
    problems = [exit_problem(process, *codes)]
    message = process.last_line if process.wait() > 0 else ""
    lost = 0 if process.wait() == 0 else max(0, process.newest_step - newest_checkpoint(run_dir))
    problems.append(f"{lost} steps lost" if lost > 2 * EVERY else "")
    return problems, message, lost


def _resume_problems(fixture: Fixture, folder: Path, run_dir: Path) -> list[str]:
    process = fixture.pretrain(folder, run_dir)
    problem = exit_problem(process, 0)
    return [f"resuming: {problem}" if problem else fixture.difference(run_dir)]


def fill_in_run(name: str, fixture: Fixture, rng: Random) -> Row:
    """Train on a disk that may be too small; enlarge the disk and resume."""
    folder, results = fixture.new_folder(), Results(name)
    options = _small_disk(int(1.3 * _size(fixture.reference_run)[0]), 200, rng)
    with disk(folder, options) as small:
        run_dir = small / "run"
        process = fixture.pretrain(folder, run_dir)
        problems, message, lost = _check_end(run_dir, process, (0, 1))
        if message and not (
            "same command" in message and ("full" in message or "space" in message)
        ):
            problems.append(f"message: {message}")
        remount(small, _LARGE)
        problems += _resume_problems(fixture, folder, run_dir)
        results.add(options, *problems, message=message, lost=lost, triggered=process.wait() != 0)
    return results.finish(folder)


def fill_from_outside(name: str, fixture: Fixture, rng: Random) -> Row:
    """Fill the disk of a run with another file at a random step."""
    folder, results = fixture.new_folder(), Results(name)
    with disk(folder, _LARGE) as small:
        run_dir, filler = small / "run", small / "filler"
        step = rng.randint(1, STEPS - 8)
        process = fixture.pretrain(folder, run_dir)
        process.wait_for_event("step", step)
        _fill(filler)
        problems, message, lost = _check_end(run_dir, process, (1,))
        filler.unlink()
        problems += _resume_problems(fixture, folder, run_dir)
        results.add(f"at step {step}", *problems, message=message, lost=lost)
    return results.finish(folder)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def read_only(name: str, fixture: Fixture, rng: Random) -> Row:
    """Make the disk read-only: before the run, and before it resumes."""
    folder, results = fixture.new_folder(), Results(name)
    with disk(folder, _LARGE) as locked:
        run_dir = locked / "run"
        remount(locked, "ro")
        process = fixture.pretrain(folder, run_dir)
        results.add("new", exit_problem(process, 78), message=process.last_line)
        remount(locked, "rw")
        process = fixture.pretrain(folder, run_dir)
        process.wait_for_event("step", rng.randint(EVERY, STEPS - 5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        remount(locked, "ro")
        process = fixture.pretrain(folder, run_dir)
        problem = exit_problem(process, 78)
        remount(locked, "rw")
        problems = _resume_problems(fixture, folder, run_dir)
        results.add("resumed", problem, *problems, message=process.last_line)
    return results.finish(folder)


def move_run_folder(name: str, fixture: Fixture, rng: Random) -> Row:
    """Rename the folder of a run while it trains; rename it back and resume."""
    folder, results = fixture.new_folder(), Results(name)
    run_dir, elsewhere = folder / "run", folder / "elsewhere"
    process = fixture.pretrain(folder, run_dir)
    step = rng.randint(1, STEPS - 8)
    process.wait_for_event("step", step)
    run_dir.rename(elsewhere)
    problem = exit_problem(process, 1, 78)
    message, reached = process.last_line, process.newest_step
    shutil.rmtree(run_dir, ignore_errors=True)  # Orbax may have made folders for its next step
    elsewhere.rename(run_dir)
    lost = reached - newest_checkpoint(run_dir)
    # A failed save is noticed at the next one.
    too_many = f"{lost} steps lost" if lost > 2 * EVERY else ""
    problems = _resume_problems(fixture, folder, run_dir)
    results.add(f"at step {step}", problem, too_many, *problems, message=message, lost=lost)
    return results.finish(folder)


def trace(log: Path, *arguments: str) -> None:
    """Trace this process and its children with strace from now on; write the calls to `log`."""
    # Some systems only let parents trace a process.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    command = ["strace", "-f", "-qq", "-o", str(log), *arguments, "-p", str(os.getpid())]
    _tracers.append(subprocess.Popen(command))
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text("utf-8"):
        if _tracers[-1].poll() is not None:
            raise RuntimeError("strace cannot trace this process")
        time.sleep(0.01)


# System call -> about how often a run makes it.
_CALLS = {"fsync": 300, "writev": 150, "rename": 80, "mkdir": 40, "unlink": 30, "write": 30}


def _failing_call(run_dir: Path, rng: Random) -> tuple[str, ...]:
    """Return strace options that make a random call fail, once or from then on."""
    call, error = rng.choice(list(_CALLS)), rng.choice(["EIO", "ENOSPC", "EROFS", "EDQUOT"])
    # strace counts calls per thread; some threads make few.
    first = rng.randint(1, max(2, int(_CALLS[call] * rng.random())))
    rule = f"inject={call}:error={error}:when={first}{rng.choice(['', '+'])}"
    # Limit write to one file: the run also writes to pipes.
    only = ("-P", str(run_dir / "metrics.jsonl")) if call == "write" else ()
    return ("-e", f"trace={call}", "-e", rule, *only)


def fail_call(name: str, fixture: Fixture, rng: Random) -> Row:
    """Make a random system call of a run fail; then resume without failures."""
    folder, results = fixture.new_folder(), Results(name)
    run_dir, log = folder / "run", folder / "calls"
    options = _failing_call(run_dir, rng)
    setup = partial(trace, log, *options)
    process = fixture.pretrain(folder, run_dir, environment=Environment(setup=setup))
    problems, message, lost = _check_end(run_dir, process, (0, 1, 78))
    triggered = "(INJECTED)" in log.read_text("utf-8", "replace")
    problems.append("it failed without a failing call" if process.wait() and not triggered else "")
    problems += _resume_problems(fixture, folder, run_dir)
    results.add(options[3], *problems, message=message, lost=lost, triggered=triggered)
    return results.finish(folder)


def kill_slow_save(name: str, fixture: Fixture, rng: Random) -> Row:
    """Kill a process during a slow save; then resume."""
    folder, results = fixture.new_folder(), Results(name)
    run_dir = folder / "run"
    milliseconds = rng.randint(1, 20)
    delay = f"inject=fsync,writev,rename,mkdir:delay_enter={milliseconds}000"
    options = ("-e", "trace=fsync,writev,rename,mkdir", "-e", delay)
    setup = partial(trace, Path(os.devnull), *options)
    process = fixture.pretrain(folder, run_dir, environment=Environment(setup=setup))
    process.wait_for_event("save", rng.randint(1, 3))
    time.sleep(rng.uniform(0, 40 * milliseconds / 1000))
    process.send_signal(signal.SIGKILL)
    problems, _, lost = _check_end(run_dir, process, (-signal.SIGKILL,))
    problems += _resume_problems(fixture, folder, run_dir)
    results.add(f"{milliseconds} ms", *problems, lost=lost)
    return results.finish(folder)


def faults() -> Iterator[Fault]:
    """Yield the faults of this module."""
    for name, reason, trial, jobs, quick in (
        ("disk full in prepare", _mount_refused, fill_in_prepare, 2, 0),
        ("disk full in a run", _mount_refused, fill_in_run, 6, 0),
        ("disk filled by others", _mount_refused, fill_from_outside, 4, 1),
        ("disk read-only", _mount_refused, read_only, 2, 0),
        ("run folder moved away", str, move_run_folder, 2, 0),
        ("disk with failing calls", _trace_refused, fail_call, 5, 0),
        ("SIGKILL while a slow disk saves", _trace_refused, kill_slow_save, 2, 0),
    ):
        yield Fault(name, partial(_skip_if, reason, trial, name), jobs, quick)
