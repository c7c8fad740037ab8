"""Signals during every event of a run, of a data command and of a run of two processes."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from support.corpora import write_corpus
from support.ports import free_address
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
    resume_step,
)
from tools.drill.report import Row
from tools.drill.results import Results, exit_problem

_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Signal -> exit code; 75 = everything is saved.
_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 75}
# Event -> how often it occurs in a run without faults.
_EVENTS = {"step": STEPS, "save": STEPS // EVERY, "evaluation": 4, "compile": 1, "restore": 1}
# Event -> number of runs; the events in which work is lost have the most.
_JOBS = {"step": 2, "save": 4, "evaluation": 1, "compile": 1, "restore": 1}
_PAUSE = (0.02, 0.3)  # seconds between SIGSTOP and SIGCONT
_TRIES_PER_JOB = 4
_COMMAND_TRIES = 20  # of a command that takes a second
_DOCUMENTS = 1500


@dataclass
class InterruptedRun:
    """A run that is interrupted and resumed, and must end like the run without faults.

    Attributes:
        fixture: Shared by all trials.
        results: Receives the result of each interruption.
        signum: Signal that interrupts the run.
    """

    fixture: Fixture
    results: Results
    signum: int
    folder: Path = field(init=False)
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.fixture.new_folder()
        self.run_dir = self.folder / "run"

    def start(self) -> Process:
        """Start or resume the run."""
        return self.fixture.pretrain(self.folder, self.run_dir)

    def check(self, process: Process, saved: int) -> bool:
        """Check an interrupted process that began at step `saved`; return False if it finished."""
        action = f"at step {process.newest_step}"
        code, reached = process.wait(), process.newest_step
        wrong_resume = resume_problem(process, saved)
        if code == 0:
            self.results.add(
                action, wrong_resume, self.fixture.difference(self.run_dir), triggered=False
            )
            return False
        lost = reached - newest_checkpoint(self.run_dir)
        expected = _CODES[signal.Signals(self.signum)]
        message = process.last_line if code == 75 else ""
        self.results.add(
            action,
            wrong_resume,
            "" if code == expected else f"exit code {code}: {process.last_line}",
            "no message" if code == 75 and not message else "",
            f"{lost} steps lost with exit code 75" if code == 75 and lost > 0 else "",
            loss_problem(lost),
            message=message,
            lost=max(0, lost),
        )
        return True

    def finish(self) -> Row:
        """Let the run finish; return the row."""
        saved, process = newest_checkpoint(self.run_dir), self.start()
        if (code := process.wait()) != 0:
            problem = f"resuming failed: exit code {code}: {process.last_line}"
        else:
            problem = resume_problem(process, saved) or self.fixture.difference(self.run_dir)
        self.results.add("the rest", problem, triggered=False)
        return self.results.finish(self.folder)


def loss_problem(lost: int) -> str:
    """Return a problem if more steps were lost than docs/reliability.md allows."""
    # Training continues while a checkpoint is written, at most until the next one is due.
    return f"{lost} steps lost" if lost > 2 * EVERY else ""


def resume_problem(process: Process, saved: int) -> str:
    """Return a problem if a process resumed at another step than the newest that was saved."""
    step = resume_step(process)
    wrong = step is not None and step != saved
    return f"step {saved} was saved, but the run resumed at {step}" if wrong else ""


def interrupt_at(name: str, event: str, signum: int, fixture: Fixture, rng: random.Random) -> Row:
    """Interrupt the processes of one run during the same kind of event."""
    run, span = InterruptedRun(fixture, Results(name), signum), fixture.longest(event)
    finished = 0
    while run.results.tries < _TRIES_PER_JOB and finished < 2 * _TRIES_PER_JOB:
        saved, process = newest_checkpoint(run.run_dir), run.start()
        # Not in the last quarter, in which the run may end before the signal arrives.
        last = max(1, _EVENTS[event] * (STEPS - saved) * 3 // (STEPS * 4))
        if event == "restore" and not saved:
            process.wait_for_event("save", 2)  # a restore needs a checkpoint
        else:
            process.wait_for_event(event, rng.randint(1, last))
        time.sleep(rng.uniform(0, span))
        process.send_signal(signum)
        if not run.check(process, saved):
            finished += 1
            run.run_dir = run.folder / f"run-{finished}"
    return run.finish()


def pause_at(name: str, event: str, fixture: Fixture, rng: random.Random) -> Row:
    """Stop and continue a process several times; the run must not differ."""
    run, span = InterruptedRun(fixture, Results(name), signal.SIGSTOP), fixture.longest(event)
    if event == "restore":
        process = run.start()
        process.wait_for_event("step", 3 * EVERY)
        process.send_signal(signal.SIGKILL)
        process.wait()
    occurrences = min(_TRIES_PER_JOB, _EVENTS[event])
    process = run.start()
    for occurrence in sorted(rng.sample(range(1, _EVENTS[event] + 1), occurrences)):
        if not process.wait_for_event(event, occurrence):
            break
        time.sleep(rng.uniform(0, span))
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(*_PAUSE))
        process.send_signal(signal.SIGCONT)
        run.results.add(f"occurrence {occurrence}", lost=0)
    run.results.add("all occurrences", exit_problem(process, 0), triggered=False)
    return run.finish()


def _train_tokenizer(fixture: Fixture, corpus: Path, folder: Path, out: str) -> Process:
    return fixture.train_tokenizer(folder, folder / out, corpus)


def _prepare(fixture: Fixture, corpus: Path, folder: Path, out: str) -> Process:
    return fixture.prepare(folder, folder / out, corpus, workers=2)


Command = Callable[[Fixture, Path, Path, str], Process]


def interrupt_command(
    name: str,
    command: Command,
    signum: int,
    fixture: Fixture,
    rng: random.Random,
) -> Row:
    """Interrupt a command at a random time; the same command must then produce the same files."""
    folder = fixture.new_folder()
    corpus = write_corpus(folder / "text.txt", _DOCUMENTS)
    whole = command(fixture, corpus, folder, "whole")
    started = time.monotonic()
    whole.wait()
    seconds, expected = time.monotonic() - started, content_of(folder / "whole")
    results = Results(name)
    for attempt in range(3 * _COMMAND_TRIES):
        if results.tries == _COMMAND_TRIES:
            break
        delay = rng.uniform(0, seconds)
        process = command(fixture, corpus, folder, f"out-{attempt}")
        process.wait_until_listening()
        time.sleep(delay)
        if process.has_ended:
            continue
        process.send_signal(signum)
        if signum == signal.SIGSTOP:
            time.sleep(rng.uniform(*_PAUSE))
            process.send_signal(signal.SIGCONT)
        problem = exit_problem(process, 0, _CODES.get(signal.Signals(signum), 0))
        again = command(fixture, corpus, folder, f"out-{attempt}")
        results.add(
            f"after {delay:.3f} s",
            problem,
            exit_problem(again, 0) or content_difference(folder / f"out-{attempt}", expected),
            message=process.last_line if process.wait() == 75 else "",
        )
    return results.finish(folder)


class TwoProcessRun:
    """A run of two processes."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture, self.folder = fixture, fixture.new_folder()
        self.run_dir = self.folder / "run"

    def start(self) -> list[Process]:
        """Start or resume both processes."""
        job = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
        environments = [Environment(job | {"JAX_PROCESS_ID": str(rank)}) for rank in (0, 1)]
        limit = ("--train.hang_timeout", "30")  # seconds; a busy machine may take ten of them
        return [
            self.fixture.pretrain(self.folder, self.run_dir, *limit, environment=environment)
            for environment in environments
        ]


def _two_process_digest(fixture: Fixture) -> str:
    """Return the digest after a run of two processes without faults."""
    run = TwoProcessRun(fixture)
    for process in run.start():
        expect_exit(process, 0)
    return fixture.digest_of(run.run_dir)


def _survivor_problem(process: Process, first: bool) -> str:
    """Return what is wrong with the end of a process whose peer (the first one?) was killed."""
    code = process.wait()
    if first and code == -signal.SIGABRT:  # JAX ends it with its own message
        return ""
    if code == 70 and "train.hang_timeout" in process.last_line:  # if the connection did not break
        return ""
    explained = "another process of this job has ended" in process.last_line
    return exit_problem(process, 1) or ("" if explained else f"message: {process.last_line}")


def interrupt_two_processes(
    name: str, signum: int, both: bool, fixture: Fixture, rng: random.Random
) -> Row:
    """Send a signal to one of two processes, or both, at a random time; then resume both."""
    expected = fixture.cached("pair", partial(_two_process_digest, fixture))
    run, results, problems, lost, message = TwoProcessRun(fixture), Results(name), [], 0, ""
    processes = run.start()
    event = rng.choice(("step", "step", "save", "evaluation", "compile"))
    occurrence = rng.randint(1, max(1, _EVENTS[event] * 3 // 4))
    processes[0].wait_for_event(event, occurrence)
    time.sleep(rng.uniform(0, fixture.longest(event)))
    signaled = processes if both else [rng.choice(processes)]
    for process in signaled:
        process.send_signal(signum)
    if signum == signal.SIGSTOP:
        time.sleep(rng.uniform(*_PAUSE))
        for process in processes:
            process.send_signal(signal.SIGCONT)
    codes = [process.wait() for process in processes]
    reached, saved = (
        max(process.newest_step for process in processes),
        newest_checkpoint(run.run_dir),
    )
    if codes != [0, 0]:
        lost = max(0, reached - saved)
        problems.append(loss_problem(lost))
        if signum == signal.SIGKILL:
            first = processes[0] in signaled
            problems += [
                _survivor_problem(process, first)
                for process in processes
                if process not in signaled
            ]
        else:
            message = processes[0].last_line
            problems += [exit_problem(process, 75) for process in processes]
            problems.append(f"{lost} steps lost with exit code 75" if lost else "")
        processes = run.start()
        codes = [process.wait() for process in processes]
    if codes != [0, 0]:
        problems.append(f"exit codes {codes}: {processes[0].last_line}")
    elif fixture.digest_of(run.run_dir) != expected:
        problems.append("the parameters differ from those of a run without faults")
    results.add(f"at {event} {occurrence}", *problems, message=message, lost=lost)
    return results.finish(run.folder)


def interrupt_while_waiting(name: str, signum: int, fixture: Fixture, rng: random.Random) -> Row:
    """Interrupt a process while it waits for its peer, which never connects."""
    results = Results(name)
    for _ in range(_TRIES_PER_JOB):
        run = TwoProcessRun(fixture)
        processes = run.start()
        processes.pop(rng.randrange(2)).send_signal(signal.SIGKILL)
        processes[0].wait_until(
            lambda process=processes[0]: "waiting for the other processes" in process.stderr
        )
        time.sleep(delay := rng.uniform(0, 1))
        processes[0].send_signal(signum)
        problem = exit_problem(processes[0], _CODES[signal.Signals(signum)])
        leftover = "a run folder was left behind" * run.run_dir.exists()
        message = processes[0].last_line if signum != signal.SIGKILL else ""
        results.add(f"after {delay:.3f} s", problem, leftover, message=message, lost=0)
        if not results.failures:
            shutil.rmtree(run.folder)
    return results.row()


def faults() -> Iterator[Fault]:
    """Yield the faults of this module."""
    commands: dict[str, Command] = {"train-tokenizer": _train_tokenizer, "prepare": _prepare}
    for signum in (*_ENDING, signal.SIGSTOP):
        label = "SIGSTOP, SIGCONT" if signum == signal.SIGSTOP else signum.name
        for command_name, command in commands.items():
            name = f"{label} in {command_name}"
            yield Fault(name, partial(interrupt_command, name, command, signum), quick=0)
        for event in _EVENTS:
            name = f"{label} in {event}"
            if signum == signal.SIGSTOP:
                yield Fault(name, partial(pause_at, name, event), _JOBS[event], quick=0)
                continue
            quick = int(signum == signal.SIGKILL and event == "save")
            jobs = _JOBS[event] if signum == signal.SIGKILL else 1
            yield Fault(name, partial(interrupt_at, name, event, signum), jobs, quick)
        if signum in _ENDING:
            name = f"{label} while one of two waits for the other"
            yield Fault(name, partial(interrupt_while_waiting, name, signum), quick=0)
        for both in (False, True):
            name = f"{label} to {'both' if both else 'one'} of two processes"
            yield Fault(name, partial(interrupt_two_processes, name, signum, both), quick=0)
