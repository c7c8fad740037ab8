"""A small drill, and checks that it detects failures; ``make drill`` runs all faults."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tools.drill import damage, runner, signals, soak
from tools.drill.fixture import STEPS, Fault, Fixture, losses
from tools.drill.report import Row, is_readable, print_report, table
from tools.drill.results import Results

pytestmark = pytest.mark.full

SEED = 8


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return Fixture(tmp_path_factory.mktemp("drill"))


def run_fault(fault: Fault, fixture: Fixture) -> Row:
    (row,) = runner.run_faults([fault], fixture, SEED, quick=True)
    return row


@pytest.mark.parametrize(
    "fault", [fault for fault in runner.all_faults() if fault.quick], ids=lambda fault: fault.name
)
def test_a_fault_is_survived(fault: Fault, fixture: Fixture) -> None:
    row = run_fault(fault, fixture)
    if row.skipped:
        pytest.skip(row.skipped)
    assert row.passed, "\n".join(row.failures)
    assert row.tries


def test_faults_have_names_of_their_own() -> None:
    names = [fault.name for fault in runner.all_faults()]
    assert len(names) == len(set(names))


def test_a_run_with_another_result_is_detected(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed has the effect of a lost step or batch."""
    fixture.build()
    run = signals.InterruptedRun(fixture, Results("another seed"), signal.SIGKILL)
    pretrain = Fixture.pretrain
    monkeypatch.setattr(Fixture, "pretrain", lambda *a, **o: pretrain(*a, "--seed", "1", **o))
    row = run.finish()
    assert not row.passed
    assert row.failures == ("the rest: metrics.jsonl differs from that of the run without faults",)
    assert losses(run.run_dir)[-1][0] == STEPS


def test_a_run_that_cannot_resume_is_detected(fixture: Fixture) -> None:
    run = signals.InterruptedRun(fixture, Results("no folder"), signal.SIGKILL)
    run.run_dir = Path("/dev/null/run")
    row = run.finish()
    assert not row.passed
    assert "exit code 78" in row.failures[0]


def test_too_many_lost_steps_and_another_exit_code_are_detected(fixture: Fixture) -> None:
    run = signals.InterruptedRun(fixture, Results("SIGTERM"), signal.SIGTERM)
    process = run.start()
    process.wait_for_event("step", STEPS - 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in (run.run_dir / "checkpoints").iterdir():
        path.rename(run.folder / path.name)
    assert run.check(process, saved=5)
    assert (run.results.tries, run.results.survived) == (1, 0)
    (failure,) = run.results.failures
    expected = ("step 5 was saved, but the run resumed at 0", "exit code -9", "steps lost")
    assert all(words in failure for words in expected), failure


def test_an_error_in_a_trial_is_a_failed_row(fixture: Fixture) -> None:
    def trial(fixture: Fixture, rng: random.Random) -> Row:
        raise KeyError("what is this")

    row = run_fault(Fault("broken", trial), fixture)
    assert not row.passed
    assert "what is this" in row.failures[0]


def test_a_seed_determines_the_random_choices(fixture: Fixture) -> None:
    def trial(fixture: Fixture, rng: random.Random) -> Row:
        return Row("draw", 1, 1, rng.randrange(10**9))

    assert run_fault(Fault("draw", trial), fixture) == run_fault(Fault("draw", trial), fixture)


def test_rows_of_a_fault_add_up() -> None:
    row = Row("x", 5, 5, 3, "one") + Row("x", 2, 1, 7, "", ("it broke",))
    assert row == Row("x", 7, 6, 7, "one", ("it broke",))
    assert (Row("x", 1, 1) + Row("x", 1, 1)).lost is None


def test_the_report_names_failures(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a fault", 20, 20, 4, "a [message]"), Row("another", 3, 2, failures=("why",))]
    assert table(rows).row_count == 2
    assert not print_report(rows, 7, 0.0)
    output = capsys.readouterr().out
    assert "FAILED another: why" in output
    assert "a [message]" in output
    assert "1 tries failed" in output
    assert print_report(rows[:1], 7, 0.0)


@pytest.mark.parametrize(
    "line", ["", "x" * 600, "Traceback (most recent call last):", "\x1b[31mred"]
)
def test_an_unreadable_line_is_no_message(line: str) -> None:
    assert not is_readable(line)
    assert is_readable("bert-jax: run_dir x holds other things; choose another")


@pytest.mark.parametrize(
    ("file", "message", "named"),
    [
        ("ledger.json", "x/train-00.npy is cut off; prepare it again", False),
        ("ledger.json", "x/train-00.npy is not what the ledger says", True),
        ("tokenizer/vocab.txt", "the store is damaged; prepare it again", False),
        ("tokenizer/vocab.txt", "x/tokenizer is another; prepare again", True),
        ("card.json", "", True),
    ],
)
def test_a_refusal_names_the_file_or_its_folder(file: str, message: str, named: bool) -> None:
    assert (damage.naming_problem(Path(file), message) == "") == named


def test_the_soak_measures_what_grows() -> None:
    samples = [soak.Sample(step, 500 + step / 100, 20, step / 50) for step in range(0, 2001, 10)]
    assert soak.growth_per_thousand(samples, "memory") == pytest.approx(10)
    assert soak.growth_per_thousand(samples, "files") == pytest.approx(0)
    times = [(step, step / 50) for step in range(0, 2001, 20)]
    assert soak.slowdown(times) == pytest.approx(1)
    assert soak.slowdown((step, seconds * (1 + step / 20_000)) for step, seconds in times) > 1.05
    assert soak.slowdown(
        (step, seconds + 5 * (step > 1900)) for step, seconds in times
    ) == pytest.approx(1)
