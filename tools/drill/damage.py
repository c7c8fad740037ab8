"""Damaged files of checkpoints, run folders, stores and tokenizers: cut, emptied, changed, deleted.

Most are only opened, many by one process; some are used by a whole run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import jax
import numpy as np

from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import UserError
from bert_jax.training import checkpoint
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.experiment import pretraining
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import LEDGER, Store
from pipelines.settings import run_config
from support.process_harness import Environment, run
from tools.drill.fixture import (
    EVERY,
    STEPS,
    Fault,
    Fixture,
    content_difference,
    content_of,
    files_of,
    repeated_steps,
    resume_step,
)
from tools.drill.report import Row
from tools.drill.results import Results, exit_problem

_WHOLE_RUNS = 3  # each with one random damage


def _cut(content: bytes, rng: Random) -> bytes | None:
    return content[: rng.randrange(len(content))]


def _emptied(content: bytes, rng: Random) -> bytes | None:
    return b""


def _changed(content: bytes, rng: Random) -> bytes | None:
    offset = rng.randrange(len(content))
    changed = content[offset] ^ 1 << rng.randrange(8)
    return content[:offset] + bytes([changed]) + content[offset + 1 :]


def _deleted(content: bytes, rng: Random) -> bytes | None:
    return None


KINDS: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "cut off": _cut,
    "emptied": _emptied,
    "with a changed bit": _changed,
    "deleted": _deleted,
}


def damage(path: Path, kind: str, rng: Random) -> None:
    """Replace a file, whose content may be hard-linked elsewhere, with a damaged one."""
    content = path.read_bytes()
    path.unlink()
    damaged = KINDS[kind](content, rng) if content else (None if kind == "deleted" else b"x")
    if damaged is not None:
        path.write_bytes(damaged)


def _linked(source: Path, target: Path) -> Path:
    """Copy a folder with hard links; the files may be replaced but not written to."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def _run_function(
    folder: Path, function: Callable[..., None], *arguments: Any
) -> list[dict[str, Any]]:
    """Call a function in a new process; return the JSON lines that it writes to its last path."""
    output = folder / "output.jsonl"
    environment = Environment(setup=partial(function, *arguments, output))
    process = run(folder, "--version", environment=environment)
    if problem := exit_problem(process, 0):
        raise RuntimeError(f"{problem}: {process.stderr}")
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def restore_each(config: Path, run_dirs: list[Path], output: Path) -> None:
    """Restore runs as a resuming process does; write a JSON line for each to `output`."""
    settings = run_config(["--config", str(config)])
    store = Store(Path(settings.data.store))
    partitioner = Partitioner(devices())
    experiment = pretraining(settings, partitioner, PretrainingData(store, settings), None)
    abstract = partitioner.abstract_state(experiment.init_fn)
    with output.open("w", encoding="utf-8") as file:
        for run_dir in run_dirs:
            messages: list[str] = []
            checkpoint.say = messages.append
            checkpoints = Checkpoints(run_dir)
            try:
                restored = checkpoints.restore(abstract, lambda meta: None)
                assert restored is not None, "the run was treated as a new one"
                state, meta = restored
                outcome = {"step": meta.step, "digest": _state_digest(state, meta)}
            except (UserError, AssertionError) as error:
                outcome = {"step": 0, "digest": str(error)}
            checkpoints.close()
            file.write(json.dumps(outcome | {"messages": messages}) + "\n")


def _state_digest(state: Any, meta: Any) -> str:
    digest = hashlib.sha256(json.dumps(asdict(meta), sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def checkpoint_files(name: str, kind: str, fixture: Fixture, rng: Random) -> Row:
    """Damage each file of the newest checkpoint in turn; restore the run."""
    folder, reference = fixture.new_folder(), fixture.reference_run
    names = files_of(reference / "checkpoints" / str(STEPS))
    results, older = Results(name), str(STEPS - EVERY)
    runs = []
    for number in range(len(names) + 2):
        run_dir = folder / f"run-{number}"
        for step in (older, str(STEPS))[: 1 if number == 0 else 2]:
            _linked(reference / "checkpoints" / step, run_dir / "checkpoints" / step)
        runs.append(run_dir)
    for file, run_dir in zip(names, runs[2:], strict=True):
        damage(run_dir / "checkpoints" / str(STEPS) / file, kind, rng)
    outcomes = _run_function(folder, restore_each, reference / "config.yaml", runs)
    digests = {outcome["step"]: outcome["digest"] for outcome in outcomes[:2]}
    assert set(digests) == {STEPS, STEPS - EVERY}, f"undamaged: {outcomes[:2]}"
    for file, outcome in zip(names, outcomes[2:], strict=True):
        step, digest, messages = outcome["step"], outcome["digest"], outcome["messages"]
        changed = "" if digests.get(step) == digest else f"step {step} became {digest}"
        message, repeated = repeated_steps("\n".join(messages))
        silent = "" if repeated == STEPS - step else f"messages: {messages}"
        results.add(f"{file} {kind}", changed, silent, message=message, lost=STEPS - step)
    return results.finish(folder)


def checkpoint_in_a_run(name: str, fixture: Fixture, rng: Random) -> Row:
    """Damage a random file of the newest checkpoint; resume the run to its end."""
    folder, results = fixture.new_folder(), Results(name)
    run_dir = Path(shutil.copytree(fixture.reference_run, folder / "run"))
    newest = run_dir / "checkpoints" / str(STEPS)
    file, kind = rng.choice(files_of(newest)), rng.choice(list(KINDS))
    damage(newest / file, kind, rng)
    process = fixture.pretrain(folder, run_dir)
    problem = exit_problem(process, 0) or fixture.difference(run_dir)
    message, repeated = repeated_steps(process.stderr)
    lost = STEPS - (resume_step(process) or 0)
    silent = "" if repeated == lost else f"{lost} steps lost, {repeated} reported"
    too_many = f"{lost} steps lost" if lost > EVERY else ""
    results.add(f"{file} {kind}", problem, silent, too_many, message=message, lost=lost)
    return results.finish(folder)


def all_checkpoints(name: str, fixture: Fixture, rng: Random) -> Row:
    """Damage all checkpoints; the run must refuse and change nothing."""
    folder, results = fixture.new_folder(), Results(name)
    for kind in ("cut off", "emptied", "deleted"):
        run_dir = Path(shutil.copytree(fixture.reference_run, folder / kind))
        for step in (run_dir / "checkpoints").iterdir():
            for file in files_of(step):
                damage(step / file, kind, rng)
        before = content_of(run_dir)
        process = fixture.pretrain(folder, run_dir)
        problem = exit_problem(process, 78)
        changed = "" if content_of(run_dir) == before else "the folder was changed"
        results.add(f"all {kind}", problem, changed, message=process.last_line)
    return results.finish(folder)


def _newest_is_empty(checkpoints: Path, rng: Random) -> None:
    shutil.rmtree(checkpoints / str(STEPS))
    (checkpoints / str(STEPS)).mkdir()


def _newest_is_incomplete(checkpoints: Path, rng: Random) -> None:
    files = files_of(checkpoints / str(STEPS))
    for file in rng.sample(files, len(files) // 2):
        (checkpoints / str(STEPS) / file).unlink()


def _newest_is_unfinished(checkpoints: Path, rng: Random) -> None:
    newest = checkpoints / str(STEPS)
    newest.rename(checkpoints / f"{STEPS}.orbax-checkpoint-tmp-{rng.randrange(10**6)}")


def _newest_is_empty_again(checkpoints: Path, rng: Random) -> None:
    newest = checkpoints / str(STEPS)
    shutil.copytree(newest, checkpoints / f"{STEPS}.damaged")
    _newest_is_empty(checkpoints, rng)


def _a_file_is_named_like_a_step(checkpoints: Path, rng: Random) -> None:
    (checkpoints / str(STEPS + EVERY)).write_bytes(rng.randbytes(10))


def _all_are_missing(checkpoints: Path, rng: Random) -> None:
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()


_FOLDERS = (
    _newest_is_empty,
    _newest_is_incomplete,
    _newest_is_unfinished,
    _newest_is_empty_again,
    _a_file_is_named_like_a_step,
    _all_are_missing,
)


def checkpoint_folders(name: str, fixture: Fixture, rng: Random) -> Row:
    """Change the folders of checkpoints; resume the run to its end."""
    folder, results = fixture.new_folder(), Results(name)
    for change in _FOLDERS:
        label = change.__name__.strip("_").replace("_", " ")
        run_dir = Path(shutil.copytree(fixture.reference_run, folder / label))
        change(run_dir / "checkpoints", rng)
        process = fixture.pretrain(folder, run_dir)
        problem = exit_problem(process, 0) or fixture.difference(run_dir)
        lost = None if change is _all_are_missing else STEPS - (resume_step(process) or 0)
        message, _ = repeated_steps(process.stderr)
        results.add(label, problem, message=message, lost=lost)
    return results.finish(folder)


def run_folder_files(name: str, fixture: Fixture, rng: Random) -> Row:
    """Damage each file beside the checkpoints in every way; resume the run."""
    folder, results, reference = fixture.new_folder(), Results(name), fixture.reference_run
    names = [file for file in files_of(reference) if file.parts[0] != "checkpoints"]
    rewritten = {file for file in names if file.parts[0] in ("config.yaml", "tokenizer", "data.md")}
    # The config of a copied run folder names the copy.
    settings = (reference / "config.yaml").read_bytes()
    before = content_of(reference)
    for file in names:
        for kind in KINDS:
            run_dir = Path(shutil.copytree(reference, folder / f"{results.tries}"))
            damage(run_dir / file, kind, rng)
            process = fixture.pretrain(folder, run_dir)
            problem = exit_problem(process, 0)
            after = content_of(run_dir)
            before[Path("config.yaml")] = settings.replace(bytes(reference), bytes(run_dir))
            expected = {f for f in before if f.parts[0] == "checkpoints"} | rewritten
            wrong = [str(f) for f in sorted(expected) if after.get(f) != before[f]]
            message = next((x for x in process.stderr.splitlines() if file.name in x), "")
            changed = f"changed: {', '.join(wrong)}" if wrong else ""
            results.add(f"{file} {kind}", problem, changed, message=message)
            shutil.rmtree(run_dir) if not results.failures else None
    return results.finish(folder)


def open_each(config: Path, stores: list[Path], output: Path) -> None:
    """Open stores as pretrain does and read batches; write a JSON line for each to `output`."""
    settings = run_config(["--config", str(config)])
    with output.open("w", encoding="utf-8") as file:
        for path in stores:
            try:
                store = Store(path)
                store.verify_all()
                store_config = replace(settings, data=replace(settings.data, store=str(path)))
                data = PretrainingData(store, store_config)
                batches = list(data.batches(0, 3, slice(0, 8)))
                outcome = {"code": 0, "result": _batch_digest(batches)}
            except UserError as error:
                outcome = {"code": error.exit_code, "result": str(error)}
            file.write(json.dumps(outcome) + "\n")


def _batch_digest(batches: list[Any]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.arrays.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def naming_problem(path: Path, message: str) -> str:
    """Return a problem if a message names neither the damaged file nor its folder.

    For a file without a folder the stem is enough: "the ledger" is ledger.json.
    """
    other = path.parent.name if len(path.parts) > 1 else path.stem
    named = not message or path.name in message or other in message
    return "" if named else f"{path.name} is not named: {message}"


def store_files(name: str, fixture: Fixture, rng: Random) -> Row:
    """Damage each file of a store: it must be refused in a line or give the same batches."""
    folder, results = fixture.new_folder(), Results(name)
    cases = [(file, kind) for file in files_of(fixture.store) for kind in KINDS]
    stores = [_linked(fixture.store, folder / f"store-{n}") for n in range(len(cases) + 1)]
    for (file, kind), store in zip(cases, stores[1:], strict=True):
        damage(store / file, kind, rng)
    config = fixture.reference_run / "config.yaml"
    good, *outcomes = _run_function(folder, open_each, config, stores)
    assert good["code"] == 0, good
    for (file, kind), outcome in zip(cases, outcomes, strict=True):
        refused = outcome["code"] == 78
        message = outcome["result"] if refused else ""
        problem = "" if refused or outcome == good else f"other batches: {outcome}"
        results.add(f"{file} {kind}", problem, naming_problem(file, message), message=message)
    return results.finish(folder)


def repair_store(name: str, fixture: Fixture, rng: Random) -> Row:
    """Follow the message about a damaged store; the run then ends like the one without faults."""
    folder, results = fixture.new_folder(), Results(name)
    store = Path(shutil.copytree(fixture.store, folder / "store"))
    files = [file for file in files_of(store) if not file.name.startswith("card.")]
    file, kind = rng.choice(files), rng.choice(["cut off", "emptied", "deleted"])
    damage(store / file, kind, rng)
    run_dir = folder / "run"
    refused = fixture.pretrain(folder, run_dir, "--data.store", store)
    problems = [exit_problem(refused, 78), "a run folder was left behind" * run_dir.exists()]
    message = refused.last_line
    problems.append(naming_problem(file, message))
    if "prepare it again" not in message and "run bert-jax prepare" not in message:
        problems.append(f"no remedy: {message}")
    again = fixture.prepare(folder, store)
    if problem := exit_problem(again, 0, 78):
        problems.append(f"prepare again: {problem}")
    if "remove the store" in message or "remove" in again.last_line:
        shutil.rmtree(store)
        problems.append(exit_problem(fixture.prepare(folder, store), 0))
    problems.append(content_difference(store, content_of(fixture.store)))
    process = fixture.pretrain(folder, run_dir, "--data.store", store)
    problems.append(exit_problem(process, 0) or fixture.difference(run_dir))
    results.add(f"{file} {kind}", *problems, message=message)
    return results.finish(folder)


def tokenizer_files(name: str, fixture: Fixture, rng: Random) -> Row:
    """Damage each file of a tokenizer: it makes no other store, and it can be trained again."""
    folder, results = fixture.new_folder(), Results(name)
    expected_tokenizer = content_of(fixture.tokenizer)
    expected_store = content_of(fixture.store)
    for file in files_of(fixture.tokenizer):
        for kind in KINDS:
            number = results.tries
            tokenizer = Path(shutil.copytree(fixture.tokenizer, folder / f"tokenizer-{number}"))
            damage(tokenizer / file, kind, rng)
            out = folder / f"store-{number}"
            process = fixture.prepare(folder, out, tokenizer=tokenizer)
            problems = [exit_problem(process, 0, 78)]
            problems.append(
                content_difference(out, expected_store) if (out / LEDGER).is_file() else ""
            )
            again = fixture.train_tokenizer(folder, tokenizer)
            problems.append(exit_problem(again, 0, 78))
            # Without its record the folder could contain files of the user.
            if "remove" in again.last_line or "new folder" in again.last_line:
                shutil.rmtree(tokenizer)
                problems.append(exit_problem(fixture.train_tokenizer(folder, tokenizer), 0))
            problems.append(content_difference(tokenizer, expected_tokenizer))
            message = process.last_line if process.wait() else ""
            problems.append(naming_problem(Path(tokenizer.name, file), message))
            results.add(f"{file} {kind}", *problems, message=message)
    return results.finish(folder)


def faults() -> Iterator[Fault]:
    """Yield the faults of this module."""
    for kind in KINDS:
        name, flips = f"checkpoint file {kind}", kind == "with a changed bit"
        files_trial = partial(checkpoint_files, name, kind)
        yield Fault(name, files_trial, jobs=2 if flips else 1, quick=int(flips))
    for name, trial, jobs, quick in (
        ("checkpoint file damaged, whole run", checkpoint_in_a_run, _WHOLE_RUNS, 0),
        ("all checkpoints damaged", all_checkpoints, 1, 0),
        ("incomplete checkpoint folder", checkpoint_folders, 1, 0),
        ("file of the run folder damaged", run_folder_files, 1, 0),
        ("file of the store damaged", store_files, 2, 1),
        ("store damaged and made again", repair_store, 2, 0),
        ("file of the tokenizer damaged", tokenizer_files, 1, 0),
    ):
        yield Fault(name, partial(trial, name), jobs, quick)
