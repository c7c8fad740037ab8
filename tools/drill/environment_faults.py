"""Faults of the environment: clock, folder names, concurrent processes, limits, streams."""

from __future__ import annotations

import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from bert_jax.training import metrics
from support.process_harness import Environment, Process
from tools.drill.fixture import (
    EVERY,
    Fault,
    Fixture,
    content_difference,
    content_of,
    newest_checkpoint,
)
from tools.drill.observed import limit_memory
from tools.drill.report import Row
from tools.drill.results import Results, exit_problem

_CONCURRENT_TRIES = 5  # for each of three commands
_HOUR, _TEN_YEARS = 3600, 10 * 365 * 24 * 3600

_NAMES = (
    "with some spaces",
    "größe 大きさ ünïcödé",
    'it\'s "quoted"',
    "[bold]markup [red] :smile:",
    "-dash",
    "%s {curly} $HOME * ~",
    "new\nline",
    "n" * 200,
)
_MAY_BE_REFUSED = _NAMES[-2:]


def shake_clock(seed: int) -> None:
    """Make the wall clock of this process jump; the monotonic clock stays correct."""
    rng, now, offset = random.Random(seed), time.time, 0.0  # noqa: S311

    def shaken() -> float:
        nonlocal offset
        if rng.random() < 0.2:
            offset += rng.choice((-_TEN_YEARS, -_HOUR, -1, 1, _HOUR, _TEN_YEARS))
        return max(0.0, now() + offset)

    time.time = shaken
    time.time_ns = lambda: int(shaken() * 1e9)


def jump_clock(name: str, fixture: Fixture, rng: Random) -> Row:
    """Train while the clock jumps; kill the process once and resume at another time."""
    folder, results = fixture.new_folder(), Results(name)
    run_dir, started = folder / "run", time.monotonic()
    process = fixture.pretrain(folder, run_dir, environment=_shaken_clock(rng))
    process.wait_for_event("step", rng.randint(1, 35))
    process.send_signal(9)
    killed = exit_problem(process, -9, 0)
    lost = max(0, process.newest_step - newest_checkpoint(run_dir))
    too_many = f"{lost} steps lost" if lost > 2 * EVERY else ""
    process = fixture.pretrain(folder, run_dir, environment=_shaken_clock(rng))
    problem = exit_problem(process, 0) or fixture.difference(run_dir)
    duration = time.monotonic() - started
    lines = [line for line in metrics.read(run_dir) if "loss" in line]
    odd = [
        x for x in lines if not (0 <= x["seconds"] <= duration and 0 < x["tokens_per_second"] < 1e8)
    ]
    implausible = f"implausible times: {odd[0]}" if odd else ""
    results.add("jumps", killed, too_many, problem, implausible, lost=lost)
    return results.finish(folder)


def _shaken_clock(rng: Random) -> Environment:
    return Environment(setup=partial(shake_clock, rng.getrandbits(32)))


def odd_folder_name(name: str, odd: str, fixture: Fixture, rng: Random) -> Row:
    """Use corpus, tokenizer, store and run in a folder with an odd name."""
    folder, results = fixture.new_folder(), Results(name)
    inner = folder / odd
    inner.mkdir()
    text = inner / f"{odd[:200]}.txt"
    shutil.copy(fixture.corpus, text)
    tokenizer, store, run_dir = inner / "tokenizer", inner / "store", inner / "run"
    # A corpus specification is a glob: "[", "*" and "?" have a meaning.
    plain = fixture.corpus if set(odd) & set("[*?") else text
    codes = (0, 78) if odd in _MAY_BE_REFUSED else (0,)
    process = fixture.train_tokenizer(folder, tokenizer, plain)
    problem = exit_problem(process, *codes)
    if not problem and process.wait() == 0:
        process = fixture.prepare(folder, store, plain, tokenizer)
        problem = exit_problem(process, *codes)
    if not problem and process.wait() == 0:
        process = fixture.pretrain(folder, run_dir, f"--data.store={store}")
        problem = exit_problem(process, *codes)
    refused = process.last_line if process.wait() else ""
    if not problem and not refused and newest_checkpoint(run_dir) == 0:
        problem = "the run is in another folder"
    stray = {path.name for path in folder.iterdir()} - {odd, "config.yaml"}
    stray = {x for x in stray if not x.endswith((".log", ".events", ".out"))}
    results.add(ascii(odd), problem, f"stray files {stray}" if stray else "", message=refused)
    return results.finish(folder)


def two_runs(name: str, fixture: Fixture, rng: Random) -> Row:
    """Start two processes on one run folder: one trains, the other is refused."""
    folder, results = fixture.new_folder(), Results(name)
    for number in range(_CONCURRENT_TRIES):
        run_dir = folder / f"run-{number}"
        processes = []
        for _ in range(2):
            processes.append(fixture.pretrain(folder, run_dir))
            time.sleep(rng.choice((0, rng.uniform(0, 0.3))))
        codes = sorted(process.wait() for process in processes)
        problems = [exit_problem(process, 0, 69) for process in processes]
        refused = next((process for process in processes if process.wait() == 69), None)
        problems.append("" if codes == [0, 69] else f"exit codes {codes}")
        problems.append(fixture.difference(run_dir) if 0 in codes else "")
        message = refused.last_line if refused else ""
        results.add(f"pair {number}", *problems, message=message)
    return results.finish(folder)


Command = Callable[[Fixture, Path, Path], Process]


def two_commands(name: str, command: Command, fixture: Fixture, rng: Random) -> Row:
    """Let two processes write the same folder; the result must be complete."""
    folder, results = fixture.new_folder(), Results(name)
    expected = content_of(
        fixture.tokenizer if command is Fixture.train_tokenizer else fixture.store
    )
    for number in range(2 * _CONCURRENT_TRIES):
        out = folder / f"out-{number}"
        processes = []
        for _ in range(2):
            processes.append(command(fixture, folder, out))
            time.sleep(rng.choice((0, rng.uniform(0, 0.3))))
        codes = sorted(process.wait() for process in processes)
        problems = [exit_problem(process, 0, 69) for process in processes]
        problems.append(content_difference(out, expected) if 0 in codes else f"exit codes {codes}")
        drafts = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        problems.append(f"drafts {drafts} left behind" if drafts else "")
        message = next((process.last_line for process in processes if process.wait() == 69), "")
        results.add(f"pair {number}, exit codes {codes}", *problems, message=message)
    return results.finish(folder)


def set_limit(resource_id: int, value: int) -> None:
    """Limit a resource of this process, like ``ulimit``."""
    if resource_id == resource.RLIMIT_AS:
        limit_memory(value)
    else:
        resource.setrlimit(resource_id, (value, value))


# Limit -> smallest and largest value; of memory, beyond what the process has at first.
_LIMITS = {
    "RLIMIT_NOFILE": (8, 48),
    "RLIMIT_AS": (1 << 26, 3 << 29),
    "RLIMIT_FSIZE": (1 << 8, 1 << 20),
}
# Exit codes when a library gets no memory: abort, segmentation fault, loader of glibc.
_ABORTS = (-6, -11, 127)


def low_limit(name: str, limit: str, fixture: Fixture, rng: Random) -> Row:
    """Train under a low resource limit; resume without it."""
    folder, results = fixture.new_folder(), Results(name)
    low, high = _LIMITS[limit]
    value = int(low * (high / low) ** rng.random())
    run_dir = folder / "run"
    environment = Environment(setup=partial(set_limit, getattr(resource, limit), value))
    process = fixture.pretrain(folder, run_dir, environment=environment)
    aborts = _ABORTS if limit == "RLIMIT_AS" else ()
    code = process.wait()
    # A library without memory ends the process or raises any error: see docs/reliability.md.
    unexplained = code in aborts or (limit == "RLIMIT_AS" and "Traceback" in process.stderr)
    problem = "" if unexplained else exit_problem(process, 0, 1, 69, 78)
    lost = 0 if code == 0 else max(0, process.newest_step - newest_checkpoint(run_dir))
    too_many = f"{lost} steps lost" if lost > 2 * EVERY else ""
    message = process.last_line if code > 0 else ""
    if unexplained:
        message = "a library without memory ended the process"
    again = fixture.pretrain(folder, run_dir)
    problems = [problem, too_many, exit_problem(again, 0) or fixture.difference(run_dir)]
    results.add(f"{limit} {value:,}", *problems, message=message, lost=lost, triggered=code != 0)
    return results.finish(folder)


def close_streams() -> None:
    """Close the standard streams, as some schedulers do."""
    for number in (0, 1, 2):
        os.close(number)


def fill_streams() -> None:
    """Send all output to a full device."""
    full = os.open("/dev/full", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(full, number)


def delete_working_folder() -> None:
    """Run in a folder that was deleted."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()


def unset_home() -> None:
    """Remove the variables of the home and cache folders."""
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.pop(name, None)


_ENVIRONMENTS = {
    "locale C": Environment({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}),
    "locale POSIX": Environment({"LC_ALL": "POSIX"}),
    "no HOME": Environment(setup=unset_home),
    "HOME that cannot be written": Environment(
        {"HOME": "/dev/null/home", "JAX_COMPILATION_CACHE_DIR": "/dev/null/cache"}
    ),
    "no TMPDIR": Environment({"TMPDIR": "/nowhere/at/all"}),
    "closed streams": Environment(setup=close_streams),
    "streams to a full device": Environment(setup=fill_streams),
    "a deleted working folder": Environment(setup=delete_working_folder),
}


def odd_environments(name: str, fixture: Fixture, rng: Random) -> Row:
    """Train in each odd environment; a refusal must have its usual exit code."""
    folder, results = fixture.new_folder(), Results(name)
    for label, environment in _ENVIRONMENTS.items():
        run_dir = folder / label
        process = fixture.pretrain(folder, run_dir, environment=environment)
        problem = exit_problem(process, 0) or fixture.difference(run_dir)
        refused = fixture.pretrain(folder, run_dir, "--seed", "7", environment=environment)
        silent = label in ("closed streams", "streams to a full device")
        code = refused.wait()
        wrong_code = f"refused with {code}" if silent and code != 78 else ""
        results.add(
            label,
            problem,
            wrong_code or ("" if silent else exit_problem(refused, 78)),
            message=refused.last_line,
        )
    return results.finish(folder)


def faults() -> Iterator[Fault]:
    """Yield the faults of this module."""
    name = "clock that jumps"
    yield Fault(name, partial(jump_clock, name), jobs=3, quick=1)
    for odd in _NAMES:
        name = f"folder {odd[:30]!r}"
        yield Fault(name, partial(odd_folder_name, name, odd), quick=0)
    name = "two processes on one run"
    yield Fault(name, partial(two_runs, name), jobs=2, quick=0)
    for label, command in (
        ("train-tokenizer", Fixture.train_tokenizer),
        ("prepare", Fixture.prepare),
    ):
        name = f"two processes of {label}"
        yield Fault(name, partial(two_commands, name, command), quick=0)
    for limit in _LIMITS:
        name = f"low {limit}"
        yield Fault(name, partial(low_limit, name, limit), jobs=5, quick=0)
    name = "odd environment"
    yield Fault(name, partial(odd_environments, name), quick=0)
