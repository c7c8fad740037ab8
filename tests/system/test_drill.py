"""The drill at the size of a test, and whether it would notice; ``make drill`` is all of it."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tools.drill import damage, program, signals, soak
from tools.drill.report import Row, is_readable, show, table
from tools.drill.stage import STEPS, Fault, Stage, losses
from tools.drill.tally import Tally

pytestmark = pytest.mark.full

SEED = 8


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("drill"))


def called(fault: Fault, stage: Stage) -> Row:
    (row,) = program.drill([fault], stage, SEED, quick=True)
    return row


@pytest.mark.parametrize(
    "fault", [fault for fault in program.all_faults() if fault.quick], ids=lambda fault: fault.name
)
def test_nothing_is_lost(fault: Fault, stage: Stage) -> None:
    row = called(fault, stage)
    if row.skipped:
        pytest.skip(row.skipped)
    assert row.held, "\n".join(row.failures)
    assert row.tries


def test_faults_have_names_of_their_own() -> None:
    names = [fault.name for fault in program.all_faults()]
    assert len(names) == len(set(names))


def test_a_run_that_ends_otherwise_is_noticed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed is what a lost step or batch would look like."""
    stage.prepared()
    chain = signals.Chain(stage, Tally("another seed"), signal.SIGKILL)
    whole = Stage.pretrain
    monkeypatch.setattr(Stage, "pretrain", lambda *given, **o: whole(*given, "--seed", "1", **o))
    row = chain.finish()
    assert not row.held
    assert row.failures == ("the rest: metrics.jsonl is not that of an undisturbed run",)
    assert losses(chain.run_dir)[-1][0] == STEPS


def test_a_run_that_cannot_go_on_is_noticed(stage: Stage) -> None:
    chain = signals.Chain(stage, Tally("no folder"), signal.SIGKILL)
    chain.run_dir = Path("/dev/null/run")
    row = chain.finish()
    assert not row.held
    assert "exit code 78" in row.failures[0]


def test_more_lost_than_promised_and_another_exit_code_are_noticed(stage: Stage) -> None:
    chain = signals.Chain(stage, Tally("SIGTERM"), signal.SIGTERM)
    life = chain.live()
    life.reaches("step", STEPS - 10)
    life.strike(signal.SIGKILL)
    life.end()
    for path in (chain.run_dir / "checkpoints").iterdir():
        path.rename(chain.place / path.name)
    assert chain.struck(life, safe=5)
    assert (chain.tally.tries, chain.tally.survived) == (1, 0)
    (failure,) = chain.tally.failures
    told = ("step 5 was safe, it went on from 0", "exit code -9", "steps lost")
    assert all(words in failure for words in told), failure


def test_a_trial_that_fails_itself_is_a_row_that_did_not_hold(stage: Stage) -> None:
    def trial(stage: Stage, rng: random.Random) -> Row:
        raise KeyError("what is this")

    row = called(Fault("broken", trial), stage)
    assert not row.held
    assert "what is this" in row.failures[0]


def test_the_same_seed_draws_the_same(stage: Stage) -> None:
    def trial(stage: Stage, rng: random.Random) -> Row:
        return Row("draw", 1, 1, rng.randrange(10**9))

    assert called(Fault("draw", trial), stage) == called(Fault("draw", trial), stage)


def test_rows_of_a_fault_add_up() -> None:
    row = Row("x", 5, 5, 3, "one") + Row("x", 2, 1, 7, "", ("it broke",))
    assert row == Row("x", 7, 6, 7, "one", ("it broke",))
    assert (Row("x", 1, 1) + Row("x", 1, 1)).lost is None


def test_the_table_says_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a fault", 20, 20, 4, "told to [stop]"), Row("another", 3, 2, failures=("why",))]
    assert table(rows).row_count == 2
    assert not show(rows, 7, 0.0)
    said = capsys.readouterr().out
    assert "FAILED another: why" in said
    assert "told to [stop]" in said
    assert "1 lost" in said
    assert show(rows[:1], 7, 0.0)


@pytest.mark.parametrize(
    "line", ["", "x" * 600, "Traceback (most recent call last):", "\x1b[31mred"]
)
def test_what_is_no_message(line: str) -> None:
    assert not is_readable(line)
    assert is_readable("bert-jax: run_dir x holds other things; choose another")


def test_a_refusal_names_the_file_or_its_folder() -> None:
    assert damage.unnamed(Path("ledger.json"), "x/train-00.npy is cut off; prepare it again")
    assert not damage.unnamed(Path("ledger.json"), "x/train-00.npy is not what the ledger says")
    assert damage.unnamed(Path("tokenizer/vocab.txt"), "the store is damaged; prepare it again")
    assert not damage.unnamed(Path("tokenizer/vocab.txt"), "x/tokenizer is another; prepare again")
    assert not damage.unnamed(Path("card.json"), "")


def test_the_soak_measures_what_grows() -> None:
    looks = [soak.Look(step, 500 + step / 100, 20, step / 50) for step in range(0, 2001, 10)]
    assert soak.per_thousand(looks, "memory") == pytest.approx(10)
    assert soak.per_thousand(looks, "files") == pytest.approx(0)
    times = [(step, step / 50) for step in range(0, 2001, 20)]
    assert soak.slower(times) == pytest.approx(1)
    assert soak.slower((step, at * (1 + step / 20_000)) for step, at in times) > 1.05
    assert soak.slower((step, at + 5 * (step > 1900)) for step, at in times) == pytest.approx(1)
