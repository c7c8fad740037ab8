"""What is around a process: clocks, names of folders, other processes, limits, streams."""

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
from support.process_harness import Circumstances, Life
from tools.drill.report import Row
from tools.drill.stage import EVERY, Fault, Stage, content_of, newest_checkpoint, unlike
from tools.drill.tally import Tally, ended
from tools.drill.watched import bind_memory

_TOGETHER = 5  # tries of two processes, for each of three commands
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
_REFUSED = _NAMES[-2:]  # or not


def shake_clock(seed: int) -> None:
    """Makes the clock of the wall jump about; that of the hardware goes on as it should."""
    rng, now, offset = random.Random(seed), time.time, 0.0  # noqa: S311

    def shaken() -> float:
        nonlocal offset
        if rng.random() < 0.2:
            offset += rng.choice((-_TEN_YEARS, -_HOUR, -1, 1, _HOUR, _TEN_YEARS))
        return max(0.0, now() + offset)

    time.time = shaken
    time.time_ns = lambda: int(shaken() * 1e9)


def clock(name: str, stage: Stage, rng: Random) -> Row:
    """A run while the clock jumps; struck once, it goes on under another time."""
    place, tally = stage.place(), Tally(name)
    run_dir, begun = place / "run", time.monotonic()
    life = stage.pretrain(place, run_dir, under=_shaken(rng))
    life.reaches("step", rng.randint(1, 35))
    life.strike(9)
    struck = ended(life, -9, 0)
    lost = max(0, life.steps - newest_checkpoint(run_dir))
    far = f"{lost} steps lost" if lost > 2 * EVERY else ""
    life = stage.pretrain(place, run_dir, under=_shaken(rng))
    complaint = ended(life, 0) or stage.complaint(run_dir)
    took = time.monotonic() - begun
    lines = [line for line in metrics.read(run_dir) if "loss" in line]
    odd = [x for x in lines if not (0 <= x["seconds"] <= took and 0 < x["tokens_per_second"] < 1e8)]
    wrong = f"times that cannot be: {odd[0]}" if odd else ""
    tally.judge("jumps", struck, far, complaint, wrong, lost=lost)
    return tally.closed(stage, place)


def _shaken(rng: Random) -> Circumstances:
    return Circumstances(before=partial(shake_clock, rng.getrandbits(32)))


def path_names(name: str, odd: str, stage: Stage, rng: Random) -> Row:
    """Corpus, tokenizer, store and run in a folder with such a name; or a line says why not."""
    place, tally = stage.place(), Tally(name)
    folder = place / odd
    folder.mkdir()
    text = folder / f"{odd[:200]}.txt"
    shutil.copy(stage.corpus, text)
    tokenizer, store, run_dir = folder / "tokenizer", folder / "store", folder / "run"
    # In a specification of text "[" and "*" mean a choice of files.
    plain = stage.corpus if set(odd) & set("[*?") else text
    codes = (0, 78) if odd in _REFUSED else (0,)
    life = stage.learn(place, tokenizer, plain)
    complaint = ended(life, *codes)
    if not complaint and life.end() == 0:
        life = stage.prepare(place, store, plain, tokenizer)
        complaint = ended(life, *codes)
    if not complaint and life.end() == 0:
        life = stage.pretrain(place, run_dir, f"--data.store={store}")
        complaint = ended(life, *codes)
    refused = life.last_line if life.end() else ""
    if not complaint and not refused and newest_checkpoint(run_dir) == 0:
        complaint = "the run is not where it should be"
    stray = {path.name for path in place.iterdir()} - {odd, "config.yaml"}
    stray = {x for x in stray if not x.endswith((".log", ".notes", ".out"))}
    tally.judge(ascii(odd), complaint, f"it left {stray}" if stray else "", message=refused)
    return tally.closed(stage, place)


def two_runs(name: str, stage: Stage, rng: Random) -> Row:
    """Two processes start on one run folder; one trains, the other is refused."""
    place, tally = stage.place(), Tally(name)
    for number in range(_TOGETHER):
        run_dir = place / f"run-{number}"
        lives = []
        for _ in range(2):
            lives.append(stage.pretrain(place, run_dir))
            time.sleep(rng.choice((0, rng.uniform(0, 0.3))))
        codes = sorted(life.end() for life in lives)
        complaints = [ended(life, 0, 69) for life in lives]
        refused = next((life for life in lives if life.end() == 69), None)
        complaints.append("" if codes == [0, 69] else f"exit codes {codes}")
        complaints.append(stage.complaint(run_dir) if 0 in codes else "")
        message = refused.last_line if refused else ""
        tally.judge(f"pair {number}", *complaints, message=message)
    return tally.closed(stage, place)


Command = Callable[[Stage, Path, Path], Life]


def two_commands(name: str, command: Command, stage: Stage, rng: Random) -> Row:
    """Two processes make the same folder; what is there then is whole."""
    place, tally = stage.place(), Tally(name)
    whole = content_of(stage.tokenizer if command is Stage.learn else stage.store)
    for number in range(2 * _TOGETHER):
        out = place / f"out-{number}"
        lives = []
        for _ in range(2):
            lives.append(command(stage, place, out))
            time.sleep(rng.choice((0, rng.uniform(0, 0.3))))
        codes = sorted(life.end() for life in lives)
        complaints = [ended(life, 0, 69) for life in lives]
        complaints.append(unlike(out, whole) if 0 in codes else f"exit codes {codes}")
        drafts = [path.name for path in place.iterdir() if path.name.endswith(".tmp")]
        complaints.append(f"it left {drafts}" if drafts else "")
        message = next((life.last_line for life in lives if life.end() == 69), "")
        tally.judge(f"pair {number}, exit codes {codes}", *complaints, message=message)
    return tally.closed(stage, place)


def limit(what: int, most: int) -> None:
    """A limit of this process, as ``ulimit`` sets it."""
    if what == resource.RLIMIT_AS:
        bind_memory(most)
    else:
        resource.setrlimit(what, (most, most))


# Limit -> from, to; of memory beyond what the process has when it begins.
_LIMITS = {
    "RLIMIT_NOFILE": (8, 48),
    "RLIMIT_AS": (1 << 26, 3 << 29),
    "RLIMIT_FSIZE": (1 << 8, 1 << 20),
}
# How a process ends whose libraries get no memory: abort, segmentation fault, glibc's loader.
_ABORTS = (-6, -11, 127)


def limited(name: str, which: str, stage: Stage, rng: Random) -> Row:
    """A run with too little of something; without the limit it goes on."""
    place, tally = stage.place(), Tally(name)
    low, high = _LIMITS[which]
    most = int(low * (high / low) ** rng.random())
    run_dir = place / "run"
    under = Circumstances(before=partial(limit, getattr(resource, which), most))
    life = stage.pretrain(place, run_dir, under=under)
    aborts = _ABORTS if which == "RLIMIT_AS" else ()
    code = life.end()
    # Libraries without memory end the process, or raise what they like: see docs/reliability.md.
    speechless = code in aborts or (which == "RLIMIT_AS" and "Traceback" in life.said)
    complaint = "" if speechless else ended(life, 0, 1, 69, 78)
    lost = 0 if code == 0 else max(0, life.steps - newest_checkpoint(run_dir))
    far = f"{lost} steps lost" if lost > 2 * EVERY else ""
    message = life.last_line if code > 0 else ""
    if speechless:
        message = "a library without memory ends the process, in its own words"
    again = stage.pretrain(place, run_dir)
    complaints = [complaint, far, ended(again, 0) or stage.complaint(run_dir)]
    what = f"{which} {most:,}"
    tally.judge(what, *complaints, message=message, lost=lost, struck=code != 0)
    return tally.closed(stage, place)


def close_streams() -> None:
    """As a scheduler may start a process."""
    for number in (0, 1, 2):
        os.close(number)


def fill_streams() -> None:
    """What is said can be written nowhere."""
    full = os.open("/dev/full", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(full, number)


def start_nowhere() -> None:
    """The folder that the process is in is not there any more."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()


def unset_home() -> None:
    """Neither a home nor a cache."""
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.pop(name, None)


_CIRCUMSTANCES = {
    "locale C": Circumstances({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}),
    "locale POSIX": Circumstances({"LC_ALL": "POSIX"}),
    "no HOME": Circumstances(before=unset_home),
    "HOME that cannot be written": Circumstances(
        {"HOME": "/dev/null/home", "JAX_COMPILATION_CACHE_DIR": "/dev/null/cache"}
    ),
    "no TMPDIR": Circumstances({"TMPDIR": "/nowhere/at/all"}),
    "closed streams": Circumstances(before=close_streams),
    "streams to a full device": Circumstances(before=fill_streams),
    "a folder that is gone": Circumstances(before=start_nowhere),
}


def circumstances(name: str, stage: Stage, rng: Random) -> Row:
    """A whole run under each of them, and a refusal, whose exit code is the same as ever."""
    place, tally = stage.place(), Tally(name)
    for what, under in _CIRCUMSTANCES.items():
        run_dir = place / what
        life = stage.pretrain(place, run_dir, under=under)
        complaint = ended(life, 0) or stage.complaint(run_dir)
        refused = stage.pretrain(place, run_dir, "--seed", "7", under=under)
        silent = what in ("closed streams", "streams to a full device")
        code = refused.end()
        wrong = f"refused with {code}" if silent and code != 78 else ""
        tally.judge(
            what,
            complaint,
            wrong or ("" if silent else ended(refused, 78)),
            message=refused.last_line,
        )
    return tally.closed(stage, place)


def faults() -> Iterator[Fault]:
    """All of them."""
    name = "clock that jumps"
    yield Fault(name, partial(clock, name), jobs=3, quick=1)
    for odd in _NAMES:
        name = f"folder {odd[:30]!r}"
        yield Fault(name, partial(path_names, name, odd), quick=0)
    name = "two processes on one run"
    yield Fault(name, partial(two_runs, name), jobs=2, quick=0)
    for label, command in (("train-tokenizer", Stage.learn), ("prepare", Stage.prepare)):
        name = f"two processes of {label}"
        yield Fault(name, partial(two_commands, name, command), quick=0)
    for which in _LIMITS:
        name = f"low {which}"
        yield Fault(name, partial(limited, name, which), jobs=5, quick=0)
    name = "odd environment"
    yield Fault(name, partial(circumstances, name), quick=0)
