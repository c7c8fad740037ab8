"""The page of ``bert-jax report`` shows runs, and refuses other folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from bert_jax.runtime.paths import at
from bert_jax.training import metrics
from bert_jax.training.batch import Arrays
from pipelines.commands import convert, report
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.reports.figures import thinned
from pipelines.reports.report_tables import held_out_note
from pipelines.reports.run import open_run
from pipelines.reports.write import write
from support import gcs_emulator
from support.commands import invoke, refused
from support.finetuned import MODEL, options
from support.finetuned import run as finetuned
from support.report_page import (
    EVIL,
    assert_curve,
    curve,
    facts,
    figure,
    read,
    table,
    tables,
    text_of,
    write_bare_run,
)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classification whose classes and folder have hostile names."""
    folder = tmp_path_factory.mktemp("tuned")
    words = options("classification", folder, folder / "<img src=x onerror=y>", train__epochs=2)
    for name in ("train.csv", "validation.csv"):
        text = (folder / name).read_text("utf-8")
        quoted = '"' + EVIL.replace('"', '""') + '"'
        (folder / name).write_text(text.replace(",drink", f",{quoted}"), "utf-8")
    finetuned([*words, "--train.log_every", "1"])
    return folder / "<img src=x onerror=y>"


def test_the_page_shows_what_the_run_logged(run: Path, store: Store) -> None:
    result = invoke("report", run)
    assert result.returncode == 0, result.stderr
    assert f"{run}/report.html" in result.stderr
    page = run / "report.html"
    assert page.stat().st_size < 500_000
    root, lines = read(page), metrics.read(run)
    trained = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "eval_loss" in line]
    found = facts(root)
    assert found["state"] == "complete"
    assert found["step"] == "20 of 20"
    assert found["tokens trained on"] == f"{trained[-1]['tokens']:,}"
    assert max(x["grad_norm"] for x in trained) < 20 * min(x["grad_norm"] for x in trained)
    for title, key in (
        ("Loss nats", "loss"),
        ("Loss of masked tokens", "mlm_loss"),
        ("Accuracy of next sentence", "nsp_accuracy"),
        ("Learning rate", "learning_rate"),
        ("Gradient norm", "grad_norm"),
        ("Throughput", "tokens_per_second"),
    ):
        steps = [line["step"] for line in trained]
        assert_curve(curve(root, title, "0-train"), steps, [line[key] for line in trained])
    corners = curve(root, "Loss nats", "0-held-out")
    np.testing.assert_allclose(np.diff(corners[:, 0]), corners[1, 0] - corners[0, 0], atol=1e-3)
    assert len(corners) == len(evaluated) == 2
    rows = table(root, "step")
    assert [row[0] for row in rows[1:]] == ["10", "20"]
    for key in ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "length"):
        place = rows[0].index(key.replace("_", " "))
        assert [float(row[place]) for row in rows[1:]] == [
            round(line[f"eval_{key}"], 4) for line in evaluated
        ]
    beside = table(root, "held-out perplexity of masked tokens")
    assert [row[:2] for row in beside[2:]] == [
        ["BERT-Base, as published", "3.99"],
        ["BERT-Large, as published", "3.23"],
    ]
    assert float(beside[1][1]) == round(evaluated[-1]["eval_perplexity"], 2)
    assert [row[0] for row in table(root, "checkpoint")[1:]] == ["10", "15", "20"]
    assert ["optimizer.warmup_steps", "5", "10,000"] in table(root, "key")
    assert text_of(root).count("(train)") == 2, "the card of the store"


def test_batches_and_guesses_are_those_of_store_and_model(
    run: Path, store: Store, config_base: RunConfig
) -> None:
    write([run], run / "report.html")
    root = read(run / "report.html")
    data = PretrainingData(store, config_base)
    drawn = [data.batch_at(step).arrays for step in range(20)]
    rows = dict(map(tuple, table(root, "of the batches")[1:]))
    real, used = _total(drawn, "segment_ids"), _total(drawn, "mlm_weights")
    assert rows["sequences drawn"] == "160"
    assert rows["padding"] == f"{1 - real / (160 * 32):.1%}"
    assert rows["tokens to predict"] == f"{used / real:.1%}"
    parts = [rows[name] for name in rows if name.startswith("…")]
    assert sum(float(part.rstrip("%")) for part in parts) == pytest.approx(100, abs=0.2)
    samples = [div for div in root.iter("div") if div.get("class") == "sample"]
    assert 8 <= len(samples) <= 12
    for sample in samples:
        shares = [float(text_of(li[1]).rstrip("%")) for li in sample.iter("li")]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
    # The first one, asked for by hand.
    first = next(data.held_out(32, 12)).arrays
    ids, places = first["token_ids"][0], first["mlm_positions"][0]
    hidden = [n for n in places[first["mlm_weights"][0] > 0] if ids[n] == store.tokenizer.mask_id]
    target = store.tokenizer.spelled(
        int(first["mlm_targets"][0][list(places).index(hidden[len(hidden) // 2])])
    )
    assert text_of(samples[0][0][0]).lstrip("…") == target.strip()


def _total(batches: list[Arrays], key: str) -> float:
    return float(sum((arrays[key] > 0).sum() for arrays in batches))


def test_a_fine_tuning_with_hostile_names(tuned: Path) -> None:
    result = invoke("report", tuned)
    assert result.returncode == 0, result.stderr
    root = read(tuned / "report.html")
    assert text_of(root.find(".//h1")) == tuned.name
    results = json.loads((tuned / "eval_results.json").read_text("utf-8"))
    rows = table(root, "true \\ predicted")
    assert rows[0][1:3] == results["confusion"]["classes"]
    assert EVIL in rows[0]
    body = next(t for t in root.iter("table") if t.get("class") == "confusion")[1]
    counts = [[int(cell.text or "") for cell in row[1:3]] for row in body]
    assert counts == results["confusion"]["true_by_predicted"]
    assert EVIL in text_of(root)
    assert len(table(root, "id")) == 13
    lines = metrics.read(tuned)
    found = curve(root, "Validation: accuracy", "0-held-out")
    evaluated = [line for line in lines if "eval_accuracy" in line]
    assert len(found) == len(evaluated) == 2
    assert facts(root)["model"].startswith("classification")


def test_any_content_of_a_run_folder_is_escaped(run: Path) -> None:
    (run / "data.md").write_text(f"# {EVIL}</pre></details>\n", "utf-8")
    with (run / "metrics.jsonl").open("a") as file:
        odd: dict[str, Any] = {"step": 20, f"eval_{EVIL}": 0.5, "loss": "much", "mlm_loss": 10**400}
        file.write(json.dumps(odd) + "\n" + '{"step": 21, "eval_loss": NaN, "lo')
    (run / "sessions.jsonl").write_bytes(b"\xff" * 99)
    (run / "eval_results.json").write_text('{"confusion": {"classes": ["a"]}, "x": 1e999}')
    status = run / "status"
    status.mkdir()
    note = {"spec": "", "attempt": 1, "step": 20, "note": EVIL}
    (status / "FAILED.json").write_text(json.dumps(note))
    write([run], run / "report.html")
    root = read(run / "report.html")
    assert facts(root)["state"] == f"failed: {EVIL}"
    assert f"Held-out: {EVIL}" in [text_of(caption) for caption in root.iter("figcaption")]
    assert any(EVIL in text_of(pre) for pre in root.iter("pre"))


def test_an_incomplete_run(config_base: RunConfig, tmp_path: Path) -> None:
    line = '{"step": 1, "loss": 2.5, "grad_norm": 1.0, "learning_rate": 0.1, "tokens": 9}\n'
    missing = replace(config_base, data=replace(config_base.data, store=str(tmp_path / "gone")))
    for name, log, state in (("one", line + '{"step": 2, "lo', "interrupted"), ("none", "", "not")):
        folder = write_bare_run(tmp_path / name, missing, log)
        write([folder], folder / "report.html")
        root = read(folder / "report.html")
        assert facts(root)["state"].startswith(state)
        assert "gone" in text_of(root)
        assert "--store DIR" in text_of(root)
        assert ("metrics.jsonl has no lines yet." in text_of(root)) == (name == "none")
        assert len(list(root.iter("figure"))) == (3 if log else 0)


def test_another_store_than_that_of_the_run_is_not_measured(
    run: Path, store_dir: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(store_dir, tmp_path / "moved"))
    out = tmp_path / "out.html"
    report.main([str(run), "--output", str(out), "--store", str(moved)])
    assert "sequences drawn" in text_of(read(out))
    ledger = json.loads((moved / "ledger.json").read_text("utf-8"))
    ledger["corpus"] = "text:other"
    (moved / "ledger.json").write_text(json.dumps(ledger))
    write([run], out, str(moved))
    assert "sequences drawn" not in text_of(read(out))


def test_several_runs_share_curves_and_are_compared(
    run: Path, tuned: Path, config_base: RunConfig, tmp_path: Path
) -> None:
    line = '{"step": %d, "loss": %f}\n'
    slower = replace(config_base, optimizer=replace(config_base.optimizer, learning_rate=0.25))
    other = write_bare_run(
        tmp_path / "other", slower, "".join(line % (n, 9 - n) for n in range(1, 4))
    )
    out = tmp_path / "out.html"
    write([run, other], out)
    root = read(out)
    names = ["run", "other"]
    assert tables(root)[0][0] == ["run", *names]
    assert_curve(curve(root, "Loss nats", "1-train"), [1, 2, 3], [8, 7, 6])
    label = figure(root, "Loss nats")[1].get("aria-label", "")
    assert label.endswith("; other, training: first 8, last 6, lowest 6 at 3, highest 8 at 1"), (
        "what a curve tells those who do not see it"
    )
    signs = [text_of(s) for s in root.iter("span") if s.get("class", "").startswith("sign run-")]
    assert signs[:2] == ["●", "■"]
    headings = [(h.tag, text_of(h)) for h in root.iter() if h.tag in ("h3", "h4")]
    assert headings.count(("h3", "■other")) == 4
    assert len(curve(root, "Loss nats", "0-train")) == 20
    assert table(root, "key")[0] == ["key", *names]
    marked = [row for row in root.iter("tr") if row.get("class") == "marked"]
    rates = [
        [text_of(cell) for cell in row] for row in marked if text_of(row[0]).endswith("ing_rate")
    ]
    assert rates == [["optimizer.learning_rate", "0.001", "0.25"]]
    seeds = tmp_path / "seeds"
    for seed in ("seed-10", "seed-9"):
        shutil.copytree(other, seeds / seed)
    report.main([str(seeds), "--output", str(out)])
    assert tables(read(out))[0][0] == ["run", "seed-9", "seed-10"]
    with pytest.raises(BadArgumentsError, match="pre-training and classification cannot be"):
        report.main([str(run), str(tuned), "--output", str(out)])
    assert tables(read(out))[0][0] == ["run", "seed-9", "seed-10"], "the older report stays"


def test_perplexities_are_compared_within_a_length(config_base: RunConfig, tmp_path: Path) -> None:
    """Longer sequences are easier: the best of all would be that of a phase, not of a state."""
    config = replace(config_base, phases=(Phase(32, 20), Phase(64, 20)))
    found = ((10, 40.0), (20, 20.0), (30, 9.0), (40, 11.0))
    lines = "".join(f'{{"step": {n}, "eval_perplexity": {x}}}\n' for n, x in found)
    write([write_bare_run(tmp_path / "run", config, lines)], tmp_path / "out.html")
    rows = table(read(tmp_path / "out.html"), "held-out perplexity of masked tokens")
    assert rows[1:3] == [["run, length 32", "20", "20"], ["run, length 64", "11", "9"]]


def test_evaluations_of_older_versions_are_marked(config_base: RunConfig, tmp_path: Path) -> None:
    old = {"step": 10, "eval_loss": 2.0, "eval_perplexity": 7.0}
    new = {"step": 20, "eval_loss": 3.0, "eval_perplexity": 9.0, "eval_length": 32}
    notes = []
    for lines, lengths in (([old], []), ([old, new], ["-", "32"]), ([new], ["32"])):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        run = write_bare_run(tmp_path / f"run-{len(notes)}", config_base, text)
        write([run], tmp_path / "out.html")
        notes.append(held_out_note([open_run(run, "run")]))
        head, *rows = table(read(tmp_path / "out.html"), "step")
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        assert list(columns.get("length", ())) == lengths
    assert len(set(notes)) == 3
    assert notes[2] in notes[1]
    assert notes[0] in notes[1]


def test_a_long_run_makes_no_long_page(config_base: RunConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 1, 60_000)
    values[31_337] = 50.0
    keys = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "grad_norm", "tokens_per_second")
    lines = (
        json.dumps({"step": n + 1, **dict.fromkeys(keys, x)}) + "\n" for n, x in enumerate(values)
    )
    config = replace(config_base, phases=(Phase(32, 40_000), Phase(64, 30_000)))
    folder = write_bare_run(tmp_path / "long", config, "".join(lines))
    write([folder], folder / "report.html")
    assert (folder / "report.html").stat().st_size < 1_000_000
    corners = curve(read(folder / "report.html"), "Loss nats", "0-train")
    assert len(corners) < 2000
    top, second = np.sort(corners[:, 1])[:2]
    assert second - top > 10, "the peak is there"
    steps, kept = thinned(np.arange(60_000.0), values, 100)
    assert len(steps) <= 102
    assert {values.min(), values.max()} <= set(kept)
    assert (np.diff(steps) > 0).all()


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Return the message of the error that the command raises in this process."""

    def refusal(error: type[UserError], *words: str | Path) -> str:
        with pytest.raises(error) as raised:
            report.main([str(word) for word in words])
        return str(raised.value)

    return refusal


def test_a_folder_without_a_run_is_reported_in_one_line(
    run: Path, refusal: Callable[..., str], tmp_path: Path
) -> None:
    refused(invoke("report", tmp_path / "none"), 78, "none does not exist")
    assert "a model, not a run" in refusal(BadInputError, MODEL)
    assert f"give the run, {run}" in refusal(BadInputError, run / "checkpoints/20")
    assert "is a file" in refusal(BadInputError, run / "config.yaml")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is not a run" in refusal(BadInputError, empty)
    assert not list(empty.iterdir())
    convert.main([str(MODEL), str(tmp_path / "own"), "--to", "bert-jax"])
    assert "converted weights" in refusal(BadInputError, tmp_path / "own")
    (run / "config.yaml").write_text("phases: 7\n", "utf-8")
    assert "phases" in refusal(BadInputError, run)
    (run / "config.yaml").write_text("[1]\n", "utf-8")
    assert "config.yaml" in refusal(BadInputError, run)


def test_a_bad_path_for_the_page_is_reported_in_one_line(
    run: Path, refusal: Callable[..., str], config_base: RunConfig, tmp_path: Path
) -> None:
    refused(invoke("report"), 64, "RUN")
    out = tmp_path / "out.html"
    assert "twice" in refusal(BadArgumentsError, run, run)
    assert "at most 8" in refusal(BadArgumentsError, *[run] * 9)
    assert "is a folder" in refusal(BadArgumentsError, run, "--output", tmp_path)
    assert "does not exist" in refusal(BadArgumentsError, run, "--output", tmp_path / "no/x.html")
    out.write_text("<!DOCTYPE html><title>mine</title>", "utf-8")
    assert "is not a report" in refusal(BadInputError, run, "--output", out)
    assert out.read_text("utf-8").endswith("<title>mine</title>")
    # One of ours is replaced.
    out.unlink()
    little = write_bare_run(tmp_path / "little", config_base)
    for _ in range(2):
        write([little], out)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.fixture
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, gcs_emulator.emulator() as (address, variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield gcs_emulator.make_bucket(address, "reports")


def test_a_run_in_a_bucket(trained: Path, bucket: str, tmp_path: Path) -> None:
    for file in filter(Path.is_file, trained.rglob("*")):
        at(f"{bucket}/a run/{file.relative_to(trained)}").write_bytes(file.read_bytes())
    at(f"{bucket}/a run/profile/plugins/profile/2026_11_22_10_00_00/vm.xplane.pb").write_bytes(b"")
    result = invoke("report", f"{bucket}/a run")
    assert result.returncode == 0, result.stderr
    root = read(at(f"{bucket}/a run/report.html").read_text())
    assert facts(root)["state"] == "complete"
    assert len(curve(root, "Loss nats", "0-train")) == 20
    assert any(div.get("class") == "sample" for div in root.iter("div"))
    assert table(root, "trace")[1:] == [["2026_11_22_10_00_00", "-"]]
    assert f"xprof --logdir '{bucket}/a run/profile'." in text_of(root)
    refused(invoke("report", f"{bucket}/none"), 78, "none does not exist")
