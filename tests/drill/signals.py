"""Signals at every moment of a run, of a command before it, and of a run of two processes."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from drill.lives import Circumstances, Life
from drill.report import Row, is_readable
from drill.stage import (
    EVERY,
    STEPS,
    Fault,
    Stage,
    content_of,
    expect,
    newest_checkpoint,
    resumed_at,
    unlike,
)
from stories import write_corpus

_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What each leaves behind as exit code; 75 = everything is saved.
_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 75}
# Moment -> how often it occurs in an undisturbed run.
_MOMENTS = {"step": STEPS, "save": STEPS // EVERY, "evaluation": 4, "compile": 1, "restore": 1}
# Of each moment so many runs are struck; those in which work is lost have the most.
_JOBS = {"step": 4, "save": 4, "evaluation": 1, "compile": 1, "restore": 1}
_PAUSE = (0.02, 0.3)  # seconds that a process is stopped
_PER_JOB = 5  # tries
_COMMANDS = 20  # tries of a command that takes a second
_DOCUMENTS = 1500


@dataclass
class Chain:
    """A run that is struck, goes on, is struck again, and must end like one that never was.

    Attributes:
        stage: Where it is.
        number: What it is struck with.
    """

    stage: Stage
    number: int
    place: Path = field(init=False)
    run_dir: Path = field(init=False)
    tries: int = 0
    lost: int = 0
    message: str = ""
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Makes its folder."""
        self.place = self.stage.place()
        self.run_dir = self.place / "run"

    def live(self) -> Life:
        """Starts the run, or goes on with it."""
        return self.stage.pretrain(self.place, self.run_dir)

    def struck(self, life: Life, when: str) -> bool:
        """Judges a process that was struck; False if it was over before."""
        code, reached = life.end(), life.steps
        if code == 0:
            return False
        self.tries += 1
        safe = newest_checkpoint(self.run_dir)
        lost = reached - safe
        self.lost = max(self.lost, lost)
        if code != _CODES[signal.Signals(self.number)]:
            self.failures.append(f"{when}: exit code {code}: {life.last_line}")
        elif code == 75:
            self.message = life.last_line
            if not is_readable(life.last_line):
                self.failures.append(f"{when}: it said: {life.last_line}")
            if lost > 0:
                self.failures.append(f"{when}: told to stop, it lost {lost} steps")
        # A checkpoint is written while training goes on, at most until the next one is due.
        if lost > 2 * EVERY:
            self.failures.append(f"{when}: {lost} steps lost")
        return True

    def went_on(self, life: Life, safe: int) -> None:
        """Judges whether a process went on from where it could."""
        found = resumed_at(life)
        if found is not None and found != safe:
            self.failures.append(f"step {safe} was safe, it went on from {found}")

    def finish(self, fault: str) -> Row:
        """Lets the run come to its end."""
        safe, life = newest_checkpoint(self.run_dir), self.live()
        if (code := life.end()) != 0:
            self.failures.append(f"it could not go on: exit code {code}: {life.last_line}")
        else:
            self.went_on(life, safe)
            if complaint := self.stage.complaint(self.run_dir):
                self.failures.append(complaint)
        survived = 0 if self.failures else self.tries
        if not self.failures:
            self.stage.remove(self.place)
        return Row(fault, self.tries, survived, self.lost, self.message, tuple(self.failures))


def ended_at(name: str, moment: str, number: int, stage: Stage, rng: random.Random) -> Row:
    """Some processes of one run are ended at the same kind of moment."""
    chain, span = Chain(stage, number), stage.longest(moment)
    complete = 0
    while chain.tries < _PER_JOB and complete < 2 * _PER_JOB:
        safe, life = newest_checkpoint(chain.run_dir), chain.live()
        # Not in the last quarter, in which the run may end before it is struck.
        left = max(1, _MOMENTS[moment] * (STEPS - safe) * 3 // (STEPS * 4))
        if moment == "restore" and not safe:
            life.reaches("save", 2)  # there has to be something to restore
        else:
            life.reaches(moment, rng.randint(1, left))
        time.sleep(rng.uniform(0, span))
        life.strike(number)
        if not chain.struck(life, f"at step {life.steps}"):
            complete += 1
            if complaint := stage.complaint(chain.run_dir):
                chain.failures.append(complaint)
            chain.run_dir = chain.place / f"run-{complete}"
            continue
        chain.went_on(life, safe)
    return chain.finish(name)


def stopped_at(name: str, moment: str, stage: Stage, rng: random.Random) -> Row:
    """A process is stopped and goes on, several times; it should not matter at all."""
    chain, span = Chain(stage, signal.SIGSTOP), stage.longest(moment)
    if moment == "restore":
        life = chain.live()
        life.reaches("step", 3 * EVERY)
        life.strike(signal.SIGKILL)
        life.end()
    occurrences = min(_PER_JOB, _MOMENTS[moment])
    life = chain.live()
    for occurrence in sorted(rng.sample(range(1, _MOMENTS[moment] + 1), occurrences)):
        if not life.reaches(moment, occurrence):
            break
        time.sleep(rng.uniform(0, span))
        life.strike(signal.SIGSTOP)
        time.sleep(rng.uniform(*_PAUSE))
        life.strike(signal.SIGCONT)
        chain.tries += 1
    if (code := life.end()) != 0:
        chain.failures.append(f"exit code {code}: {life.last_line}")
    return chain.finish(name)


def _train_tokenizer(stage: Stage, corpus: Path, place: Path, out: str) -> Life:
    return stage.learn(place, place / out, corpus)


def _prepare(stage: Stage, corpus: Path, place: Path, out: str) -> Life:
    return stage.prepare(place, place / out, corpus, workers=2)


Command = Callable[[Stage, Path, Path, str], Life]


def command_ended(
    name: str,
    command: Command,
    number: int,
    stage: Stage,
    rng: random.Random,
) -> Row:
    """A command is ended anywhere; the same command again has to make what it would have made."""
    place = stage.place()
    corpus = write_corpus(place / "text.txt", _DOCUMENTS)
    whole = command(stage, corpus, place, "whole")
    begun = time.monotonic()
    whole.end()
    seconds, expected = time.monotonic() - begun, content_of(place / "whole")
    tries, message, failures = 0, "", []
    for attempt in range(3 * _COMMANDS):
        if tries == _COMMANDS:
            break
        delay = rng.uniform(0, seconds)
        life = command(stage, corpus, place, f"out-{attempt}")
        life.listens()
        time.sleep(delay)
        if life.ended:
            continue
        life.strike(number)
        if number == signal.SIGSTOP:
            time.sleep(rng.uniform(*_PAUSE))
            life.strike(signal.SIGCONT)
        code = life.end()
        tries += 1
        if code not in (0, _CODES.get(signal.Signals(number), 0)):
            failures.append(f"after {delay:.3f} s: exit code {code}: {life.last_line}")
        if code == 75:
            message = life.last_line
        again = command(stage, corpus, place, f"out-{attempt}")
        if again.end() != 0:
            failures.append(f"after {delay:.3f} s, again: {again.last_line}")
        elif complaint := unlike(place / f"out-{attempt}", expected):
            failures.append(f"after {delay:.3f} s: {complaint}")
    if not failures:
        stage.remove(place)
    return Row(name, tries, tries - len(failures), None, message, tuple(failures))


class Pair:
    """A run of two processes."""

    def __init__(self, stage: Stage) -> None:
        """In a folder of its own."""
        self.stage, self.place = stage, stage.place()
        self.run_dir = self.place / "run"

    def live(self) -> list[Life]:
        """Starts both."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        known = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        each = [Circumstances(known | {"JAX_PROCESS_ID": str(number)}) for number in (0, 1)]
        limit = ("--train.hang_timeout", "30")  # of which a busy machine may take ten
        return [self.stage.pretrain(self.place, self.run_dir, *limit, under=one) for one in each]


def _digest_of_pair(stage: Stage) -> str:
    """Of a run of two processes that is never struck."""
    pair = Pair(stage)
    for life in pair.live():
        expect(life, 0)
    return stage.digest_of(pair.run_dir)


def _of_both(number: int, codes: list[int], lost: int, message: str) -> list[str]:
    """What is wrong with how both processes ended."""
    if number == signal.SIGKILL:  # the other one is ended by JAX, in its own words
        return []
    if codes != [75, 75]:
        return [f"exit codes {codes}: {message}"]
    if lost or not is_readable(message):
        return [f"told to stop, they lost {lost} steps and said: {message}"]
    return []


def one_of_two(name: str, number: int, all_: bool, stage: Stage, rng: random.Random) -> Row:
    """One process of two, or both, are struck at a random step; both start again."""
    expected = stage.kept("pair", partial(_digest_of_pair, stage))
    pair, failures, lost, message = Pair(stage), [], 0, ""
    lives = pair.live()
    lives[0].reaches("step", rng.randint(2, STEPS - 10))
    time.sleep(rng.uniform(0, stage.longest("step")))
    for life in lives if all_ else [rng.choice(lives)]:
        life.strike(number)
    if number == signal.SIGSTOP:
        time.sleep(rng.uniform(*_PAUSE))
        for life in lives:
            life.strike(signal.SIGCONT)
    codes = [life.end() for life in lives]
    reached, safe = max(life.steps for life in lives), newest_checkpoint(pair.run_dir)
    if codes != [0, 0]:
        lost = max(0, reached - safe)
        message = lives[0].last_line if number != signal.SIGKILL else ""
        failures += _of_both(number, codes, lost, message)
        lives = pair.live()
        codes = [life.end() for life in lives]
    if codes != [0, 0]:
        failures.append(f"exit codes {codes}: {lives[0].last_line}")
    elif stage.digest_of(pair.run_dir) != expected:
        failures.append("the parameters are not those of an undisturbed run")
    if lost > 2 * EVERY:
        failures.append(f"{lost} steps lost")
    if not failures:
        stage.remove(pair.place)
    return Row(name, 1, int(not failures), lost, message, tuple(failures))


def faults() -> Iterator[Fault]:
    """All of them."""
    commands: dict[str, Command] = {"train-tokenizer": _train_tokenizer, "prepare": _prepare}
    for number in (*_ENDING, signal.SIGSTOP):
        what = "SIGSTOP, SIGCONT" if number == signal.SIGSTOP else number.name
        for label, command in commands.items():
            name = f"{what} in {label}"
            yield Fault(name, partial(command_ended, name, command, number), quick=0)
        for moment in _MOMENTS:
            name = f"{what} in {moment}"
            if number == signal.SIGSTOP:
                yield Fault(name, partial(stopped_at, name, moment), _JOBS[moment], quick=0)
                continue
            quick = int(number == signal.SIGKILL and moment == "save")
            jobs = _JOBS[moment] if number == signal.SIGKILL else 1
            yield Fault(name, partial(ended_at, name, moment, number), jobs, quick)
        for all_ in (False, True):
            name = f"{what} to {'both' if all_ else 'one'} of two processes"
            yield Fault(name, partial(one_of_two, name, number, all_), quick=0)
