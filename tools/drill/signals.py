"""Signals at every moment of a run, of a command before it, and of a run of two processes."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from support.corpora import write_corpus
from support.ports import free_address
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
    resumed_at,
    unlike,
)
from tools.drill.tally import Tally, ended

_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What each leaves behind as exit code; 75 = everything is saved.
_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 75}
# Moment -> how often it occurs in an undisturbed run.
_MOMENTS = {"step": STEPS, "save": STEPS // EVERY, "evaluation": 4, "compile": 1, "restore": 1}
# Of each moment so many runs are struck; those in which work is lost have the most.
_JOBS = {"step": 2, "save": 4, "evaluation": 1, "compile": 1, "restore": 1}
_PAUSE = (0.02, 0.3)  # seconds that a process is stopped
_PER_JOB = 4  # tries
_COMMANDS = 20  # tries of a command that takes a second
_DOCUMENTS = 1500


@dataclass
class Chain:
    """A run that is struck, goes on, is struck again, and must end like one that never was.

    Attributes:
        stage: Where it is.
        tally: What came of it.
        number: What it is struck with.
    """

    stage: Stage
    tally: Tally
    number: int
    place: Path = field(init=False)
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        """Makes its folder."""
        self.place = self.stage.place()
        self.run_dir = self.place / "run"

    def live(self) -> Life:
        """Starts the run, or goes on with it."""
        return self.stage.pretrain(self.place, self.run_dir)

    def struck(self, life: Life, safe: int) -> bool:
        """Judges a process that went on from step `safe` and was struck; False if it was over."""
        what = f"at step {life.steps}"
        code, reached = life.end(), life.steps
        on = went_on(life, safe)
        if code == 0:
            self.tally.judge(what, on, self.stage.complaint(self.run_dir), struck=False)
            return False
        lost = reached - newest_checkpoint(self.run_dir)
        expected = _CODES[signal.Signals(self.number)]
        told = life.last_line if code == 75 else ""
        self.tally.judge(
            what,
            on,
            "" if code == expected else f"exit code {code}: {life.last_line}",
            "it said nothing" if code == 75 and not told else "",
            f"told to stop, it lost {lost} steps" if code == 75 and lost > 0 else "",
            _too_much(lost),
            message=told,
            lost=max(0, lost),
        )
        return True

    def finish(self) -> Row:
        """Lets the run come to its end."""
        safe, life = newest_checkpoint(self.run_dir), self.live()
        if (code := life.end()) != 0:
            complaint = f"it could not go on: exit code {code}: {life.last_line}"
        else:
            complaint = went_on(life, safe) or self.stage.complaint(self.run_dir)
        self.tally.judge("the rest", complaint, struck=False)
        return self.tally.closed(self.stage, self.place)


def _too_much(lost: int) -> str:
    """What is wrong if so many steps were lost."""
    # A checkpoint is written while training goes on, at most until the next one is due.
    return f"{lost} steps lost" if lost > 2 * EVERY else ""


def went_on(life: Life, safe: int) -> str:
    """What is wrong with the step that a process went on from."""
    found = resumed_at(life)
    wrong = found is not None and found != safe
    return f"step {safe} was safe, it went on from {found}" if wrong else ""


def ended_at(name: str, moment: str, number: int, stage: Stage, rng: random.Random) -> Row:
    """Some processes of one run are ended at the same kind of moment."""
    chain, span = Chain(stage, Tally(name), number), stage.longest(moment)
    complete = 0
    while chain.tally.tries < _PER_JOB and complete < 2 * _PER_JOB:
        safe, life = newest_checkpoint(chain.run_dir), chain.live()
        # Not in the last quarter, in which the run may end before it is struck.
        left = max(1, _MOMENTS[moment] * (STEPS - safe) * 3 // (STEPS * 4))
        if moment == "restore" and not safe:
            life.reaches("save", 2)  # there has to be something to restore
        else:
            life.reaches(moment, rng.randint(1, left))
        time.sleep(rng.uniform(0, span))
        life.strike(number)
        if not chain.struck(life, safe):
            complete += 1
            chain.run_dir = chain.place / f"run-{complete}"
    return chain.finish()


def stopped_at(name: str, moment: str, stage: Stage, rng: random.Random) -> Row:
    """A process is stopped and goes on, several times; it should not matter at all."""
    chain, span = Chain(stage, Tally(name), signal.SIGSTOP), stage.longest(moment)
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
        chain.tally.judge(f"occurrence {occurrence}", lost=0)
    chain.tally.judge("all of them", ended(life, 0), struck=False)
    return chain.finish()


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
    tally = Tally(name)
    for attempt in range(3 * _COMMANDS):
        if tally.tries == _COMMANDS:
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
        complaint = ended(life, 0, _CODES.get(signal.Signals(number), 0))
        again = command(stage, corpus, place, f"out-{attempt}")
        tally.judge(
            f"after {delay:.3f} s",
            complaint,
            ended(again, 0) or unlike(place / f"out-{attempt}", expected),
            message=life.last_line if life.end() == 75 else "",
        )
    return tally.closed(stage, place)


class Pair:
    """A run of two processes."""

    def __init__(self, stage: Stage) -> None:
        """In a folder of its own."""
        self.stage, self.place = stage, stage.place()
        self.run_dir = self.place / "run"

    def live(self) -> list[Life]:
        """Starts both."""
        known = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
        each = [Circumstances(known | {"JAX_PROCESS_ID": str(number)}) for number in (0, 1)]
        limit = ("--train.hang_timeout", "30")  # of which a busy machine may take ten
        return [self.stage.pretrain(self.place, self.run_dir, *limit, under=one) for one in each]


def _digest_of_pair(stage: Stage) -> str:
    """Of a run of two processes that is never struck."""
    pair = Pair(stage)
    for life in pair.live():
        expect(life, 0)
    return stage.digest_of(pair.run_dir)


def _left_alone(life: Life, first: bool) -> str:
    """What is wrong with how a process ended whose peer, maybe the `first`, was killed."""
    code = life.end()
    if first and code == -signal.SIGABRT:  # by JAX, in its own words
        return ""
    if code == 70 and "train.hang_timeout" in life.last_line:  # where the connection did not break
        return ""
    said = "another process of this job has ended" in life.last_line
    return ended(life, 1) or ("" if said else f"it said: {life.last_line}")


def one_of_two(name: str, number: int, all_: bool, stage: Stage, rng: random.Random) -> Row:
    """One process of two, or both, are struck at a random moment; both start again."""
    expected = stage.kept("pair", partial(_digest_of_pair, stage))
    pair, tally, complaints, lost, message = Pair(stage), Tally(name), [], 0, ""
    lives = pair.live()
    moment = rng.choice(("step", "step", "save", "evaluation", "compile"))
    occurrence = rng.randint(1, max(1, _MOMENTS[moment] * 3 // 4))
    lives[0].reaches(moment, occurrence)
    time.sleep(rng.uniform(0, stage.longest(moment)))
    struck = lives if all_ else [rng.choice(lives)]
    for life in struck:
        life.strike(number)
    if number == signal.SIGSTOP:
        time.sleep(rng.uniform(*_PAUSE))
        for life in lives:
            life.strike(signal.SIGCONT)
    codes = [life.end() for life in lives]
    reached, safe = max(life.steps for life in lives), newest_checkpoint(pair.run_dir)
    if codes != [0, 0]:
        lost = max(0, reached - safe)
        complaints.append(_too_much(lost))
        if number == signal.SIGKILL:
            first = lives[0] in struck
            complaints += [_left_alone(life, first) for life in lives if life not in struck]
        else:
            message = lives[0].last_line
            complaints += [ended(life, 75) for life in lives]
            complaints.append(f"told to stop, they lost {lost} steps" if lost else "")
        lives = pair.live()
        codes = [life.end() for life in lives]
    if codes != [0, 0]:
        complaints.append(f"exit codes {codes}: {lives[0].last_line}")
    elif stage.digest_of(pair.run_dir) != expected:
        complaints.append("the parameters are not those of an undisturbed run")
    tally.judge(f"at {moment} {occurrence}", *complaints, message=message, lost=lost)
    return tally.closed(stage, pair.place)


def alone(name: str, number: int, stage: Stage, rng: random.Random) -> Row:
    """One process of two is struck while it waits for the other, which never comes."""
    tally = Tally(name)
    for _ in range(_PER_JOB):
        pair = Pair(stage)
        lives = pair.live()
        lives.pop(rng.randrange(2)).strike(signal.SIGKILL)
        lives[0].waits(lambda life=lives[0]: "meeting the others" in life.said)
        time.sleep(delay := rng.uniform(0, 1))
        lives[0].strike(number)
        complaint = ended(lives[0], _CODES[signal.Signals(number)])
        left = "a run folder was left behind" * pair.run_dir.exists()
        message = lives[0].last_line if number != signal.SIGKILL else ""
        tally.judge(f"after {delay:.3f} s", complaint, left, message=message, lost=0)
        if not tally.failures:
            stage.remove(pair.place)
    return tally.row()


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
        if number in _ENDING:
            name = f"{what} while one of two waits for the other"
            yield Fault(name, partial(alone, name, number), quick=0)
        for all_ in (False, True):
            name = f"{what} to {'both' if all_ else 'one'} of two processes"
            yield Fault(name, partial(one_of_two, name, number, all_), quick=0)
