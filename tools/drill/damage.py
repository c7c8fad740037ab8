"""Damaged files of checkpoints, run folders, stores and tokenizers: cut, emptied, changed, gone.

Most are only opened again, many by one process; some are tried with a whole run.
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
from support.process_harness import Circumstances, run
from tools.drill.report import Row
from tools.drill.stage import EVERY, STEPS, Fault, Stage, content_of, files_of, resumed_at, unlike
from tools.drill.tally import Tally, ended

_WHOLE_RUNS = 3  # of many damages


def _cut(content: bytes, rng: Random) -> bytes | None:
    return content[: rng.randrange(len(content))]


def _emptied(content: bytes, rng: Random) -> bytes | None:
    return b""


def _changed(content: bytes, rng: Random) -> bytes | None:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _deleted(content: bytes, rng: Random) -> bytes | None:
    return None


KINDS: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "cut off": _cut,
    "emptied": _emptied,
    "with a changed bit": _changed,
    "deleted": _deleted,
}


def damage(path: Path, kind: str, rng: Random) -> None:
    """Puts a damaged file in the place of one that may be shared with others."""
    content = path.read_bytes()
    path.unlink()
    left = KINDS[kind](content, rng) if content else (None if kind == "deleted" else b"x")
    if left is not None:
        path.write_bytes(left)


def _linked(source: Path, target: Path) -> Path:
    """A copy that takes no room; its files may be replaced, not written to."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def _asked(place: Path, question: Callable[..., None], *arguments: Any) -> list[dict[str, Any]]:
    """What a process of its own writes, an object per line, into the file it gets last."""
    answers = place / "answers.jsonl"
    under = Circumstances(before=partial(question, *arguments, answers))
    life = run(place, "--version", under=under)
    if complaint := ended(life, 0):
        raise RuntimeError(f"{complaint}: {life.said}")
    return [json.loads(line) for line in answers.read_text("utf-8").splitlines()]


def restore_each(config: Path, run_dirs: list[Path], answers: Path) -> None:
    """Restores runs as a process that goes on with them does."""
    settings = run_config(["--config", str(config)])
    store = Store(Path(settings.data.store))
    partitioner = Partitioner(devices())
    experiment = pretraining(settings, partitioner, PretrainingData(store, settings), None)
    abstract = partitioner.abstract_state(experiment.init_fn)
    with answers.open("w", encoding="utf-8") as out:
        for run_dir in run_dirs:
            said: list[str] = []
            checkpoint.say = said.append
            checkpoints = Checkpoints(run_dir)
            try:
                found = checkpoints.restore(abstract, lambda meta: None)
                assert found is not None, "it took the run for a new one"
                answer = {"step": found[1].step, "bits": _bits(*found)}
            except (UserError, AssertionError) as error:
                answer = {"step": 0, "bits": str(error)}
            checkpoints.close()
            out.write(json.dumps(answer | {"said": said}) + "\n")


def _bits(state: Any, meta: Any) -> str:
    digest = hashlib.sha256(json.dumps(asdict(meta), sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def checkpoint_files(name: str, kind: str, stage: Stage, rng: Random) -> Row:
    """Every file of the newest checkpoint in turn; the run is restored."""
    place, whole = stage.place(), stage.folder / "undisturbed"
    names = files_of(whole / "checkpoints" / str(STEPS))
    tally, older = Tally(name), str(STEPS - EVERY)
    runs = []
    for number in range(len(names) + 2):
        run_dir = place / f"run-{number}"
        for step in (older, str(STEPS))[: 1 if number == 0 else 2]:
            _linked(whole / "checkpoints" / step, run_dir / "checkpoints" / step)
        runs.append(run_dir)
    for file, run_dir in zip(names, runs[2:], strict=True):
        damage(run_dir / "checkpoints" / str(STEPS) / file, kind, rng)
    answers = _asked(place, restore_each, whole / "config.yaml", runs)
    good = {answer["step"]: answer["bits"] for answer in answers[:2]}
    assert set(good) == {STEPS, STEPS - EVERY}, f"undamaged: {answers[:2]}"
    for file, answer in zip(names, answers[2:], strict=True):
        step, said = answer["step"], answer["said"]
        same = "" if good.get(step) == answer["bits"] else f"step {step} became {answer['bits']}"
        told = step == STEPS or f"{EVERY} steps have to be done again" in " ".join(said)
        silent = "" if told else f"it only said {said}"
        message = next((line for line in said if "again" in line), "")
        tally.judge(f"{file} {kind}", same, silent, message=message, lost=STEPS - step)
    return tally.closed(stage, place)


def checkpoint_in_a_run(name: str, stage: Stage, rng: Random) -> Row:
    """A random file of the newest checkpoint; the run goes on to its end."""
    place, tally = stage.place(), Tally(name)
    run_dir = Path(shutil.copytree(stage.folder / "undisturbed", place / "run"))
    newest = run_dir / "checkpoints" / str(STEPS)
    file, kind = rng.choice(files_of(newest)), rng.choice(list(KINDS))
    damage(newest / file, kind, rng)
    life = stage.pretrain(place, run_dir)
    complaint = ended(life, 0) or stage.complaint(run_dir)
    message = next((line for line in life.said.splitlines() if "again" in line), "")
    begun = resumed_at(life)
    lost = STEPS - (begun or 0)
    told = "" if bool(lost) == bool(message) else "it did not say what it costs"
    far = f"{lost} steps lost" if lost > EVERY else ""
    tally.judge(f"{file} {kind}", complaint, told, far, message=message, lost=lost)
    return tally.closed(stage, place)


def all_checkpoints(name: str, stage: Stage, rng: Random) -> Row:
    """All of them; nothing may be made worse."""
    place, tally = stage.place(), Tally(name)
    for kind in ("cut off", "emptied", "deleted"):
        run_dir = Path(shutil.copytree(stage.folder / "undisturbed", place / kind))
        for step in (run_dir / "checkpoints").iterdir():
            for file in files_of(step):
                damage(step / file, kind, rng)
        before = content_of(run_dir)
        life = stage.pretrain(place, run_dir)
        complaint = ended(life, 78)
        changed = "" if content_of(run_dir) == before else "it changed the folder"
        tally.judge(f"all {kind}", complaint, changed, message=life.last_line)
    return tally.closed(stage, place)


def _newest_is_empty(checkpoints: Path, rng: Random) -> None:
    shutil.rmtree(checkpoints / str(STEPS))
    (checkpoints / str(STEPS)).mkdir()


def _newest_is_half_there(checkpoints: Path, rng: Random) -> None:
    files = files_of(checkpoints / str(STEPS))
    for file in rng.sample(files, len(files) // 2):
        (checkpoints / str(STEPS) / file).unlink()


def _draft_is_left(checkpoints: Path, rng: Random) -> None:
    newest = checkpoints / str(STEPS)
    newest.rename(checkpoints / f"{STEPS}.orbax-checkpoint-tmp-{rng.randrange(10**6)}")


def _damaged_before(checkpoints: Path, rng: Random) -> None:
    newest = checkpoints / str(STEPS)
    shutil.copytree(newest, checkpoints / f"{STEPS}.damaged")
    _newest_is_empty(checkpoints, rng)


def _a_file_is_named_like_a_step(checkpoints: Path, rng: Random) -> None:
    (checkpoints / str(STEPS + EVERY)).write_bytes(rng.randbytes(10))


def _none_is_left(checkpoints: Path, rng: Random) -> None:
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()


_FOLDERS = (
    _newest_is_empty,
    _newest_is_half_there,
    _draft_is_left,
    _damaged_before,
    _a_file_is_named_like_a_step,
    _none_is_left,
)


def checkpoint_folders(name: str, stage: Stage, rng: Random) -> Row:
    """Folders that are not what a finished save leaves; the run goes on to its end."""
    place, tally = stage.place(), Tally(name)
    for change in _FOLDERS:
        what = change.__name__.strip("_").replace("_", " ")
        run_dir = Path(shutil.copytree(stage.folder / "undisturbed", place / what))
        change(run_dir / "checkpoints", rng)
        life = stage.pretrain(place, run_dir)
        complaint = ended(life, 0) or stage.complaint(run_dir)
        lost = None if change is _none_is_left else STEPS - (resumed_at(life) or 0)
        message = next((line for line in life.said.splitlines() if "again" in line), "")
        tally.judge(what, complaint, message=message, lost=lost)
    return tally.closed(stage, place)


def run_folder_files(name: str, stage: Stage, rng: Random) -> Row:
    """Every file beside the checkpoints in every way; the run goes on, or says why not."""
    place, tally, whole = stage.place(), Tally(name), stage.folder / "undisturbed"
    names = [file for file in files_of(whole) if file.parts[0] != "checkpoints"]
    mended = {file for file in names if file.parts[0] in ("config.yaml", "tokenizer", "data.md")}
    # A run folder that is copied has another name in its config.
    settings = (whole / "config.yaml").read_bytes()
    before = content_of(whole)
    for file in names:
        for kind in KINDS:
            run_dir = Path(shutil.copytree(whole, place / f"{tally.tries}"))
            damage(run_dir / file, kind, rng)
            life = stage.pretrain(place, run_dir)
            complaint = ended(life, 0)
            after = content_of(run_dir)
            before[Path("config.yaml")] = settings.replace(bytes(whole), bytes(run_dir))
            kept = {f for f in before if f.parts[0] == "checkpoints"} | mended
            wrong = [str(f) for f in sorted(kept) if after.get(f) != before[f]]
            message = next((x for x in life.said.splitlines() if file.name in x), "")
            changed = f"not as before: {', '.join(wrong)}" if wrong else ""
            tally.judge(f"{file} {kind}", complaint, changed, message=message)
            shutil.rmtree(run_dir) if not tally.failures else None
    return tally.closed(stage, place)


def open_each(config: Path, stores: list[Path], answers: Path) -> None:
    """Opens stores as pretrain does, and makes a batch of each."""
    settings = run_config(["--config", str(config)])
    with answers.open("w", encoding="utf-8") as out:
        for folder in stores:
            try:
                store = Store(folder)
                store.verify_all()
                config_of = replace(settings, data=replace(settings.data, store=str(folder)))
                data = PretrainingData(store, config_of)
                batches = list(data.batches(0, 3, slice(0, 8)))
                answer = {"code": 0, "bits": _batch_bits(batches)}
            except UserError as error:
                answer = {"code": error.exit_code, "bits": str(error)}
            out.write(json.dumps(answer) + "\n")


def _batch_bits(batches: list[Any]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.arrays.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def unnamed(path: Path, message: str) -> str:
    """What is wrong with a refusal that names neither the damaged file nor its folder.

    Of one without a folder the stem is enough: what "the ledger says" is what is in ledger.json.
    """
    other = path.parent.name if len(path.parts) > 1 else path.stem
    named = not message or path.name in message or other in message
    return "" if named else f"it does not name {path.name}: {message}"


def store_files(name: str, stage: Stage, rng: Random) -> Row:
    """Every file of a store in every way: refused in a line, or the same batches."""
    place, tally = stage.place(), Tally(name)
    cases = [(file, kind) for file in files_of(stage.store) for kind in KINDS]
    stores = [_linked(stage.store, place / f"store-{n}") for n in range(len(cases) + 1)]
    for (file, kind), store in zip(cases, stores[1:], strict=True):
        damage(store / file, kind, rng)
    config = stage.folder / "undisturbed" / "config.yaml"
    good, *answers = _asked(place, open_each, config, stores)
    assert good["code"] == 0, good
    for (file, kind), answer in zip(cases, answers, strict=True):
        refused = answer["code"] == 78
        message = answer["bits"] if refused else ""
        complaint = "" if refused or answer == good else f"other batches: {answer}"
        tally.judge(f"{file} {kind}", complaint, unnamed(file, message), message=message)
    return tally.closed(stage, place)


def store_is_mended(name: str, stage: Stage, rng: Random) -> Row:
    """What the message of a damaged store says to do is done, and the run ends as it would have."""
    place, tally = stage.place(), Tally(name)
    store = Path(shutil.copytree(stage.store, place / "store"))
    files = [file for file in files_of(store) if not file.name.startswith("card.")]
    file, kind = rng.choice(files), rng.choice(["cut off", "emptied", "deleted"])
    damage(store / file, kind, rng)
    run_dir = place / "run"
    refused = stage.pretrain(place, run_dir, "--data.store", store)
    complaints = [ended(refused, 78), "a run folder was left behind" * run_dir.exists()]
    message = refused.last_line
    complaints.append(unnamed(file, message))
    if "prepare it again" not in message and "run bert-jax prepare" not in message:
        complaints.append(f"no remedy: {message}")
    again = stage.prepare(place, store)
    if complaint := ended(again, 0, 78):
        complaints.append(f"prepare again: {complaint}")
    if "remove the store" in message or "remove" in again.last_line:
        shutil.rmtree(store)
        complaints.append(ended(stage.prepare(place, store), 0))
    complaints.append(unlike(store, content_of(stage.store)))
    life = stage.pretrain(place, run_dir, "--data.store", store)
    complaints.append(ended(life, 0) or stage.complaint(run_dir))
    tally.judge(f"{file} {kind}", *complaints, message=message)
    return tally.closed(stage, place)


def tokenizer_files(name: str, stage: Stage, rng: Random) -> Row:
    """Every file of a tokenizer: no store is made of a damaged one, and it can be learned again."""
    place, tally = stage.place(), Tally(name)
    whole, expected = content_of(stage.tokenizer), content_of(stage.store)
    for file in files_of(stage.tokenizer):
        for kind in KINDS:
            number = tally.tries
            folder = Path(shutil.copytree(stage.tokenizer, place / f"tokenizer-{number}"))
            damage(folder / file, kind, rng)
            out = place / f"store-{number}"
            life = stage.prepare(place, out, tokenizer=folder)
            complaints = [ended(life, 0, 78)]
            complaints.append(unlike(out, expected) if (out / LEDGER).is_file() else "")
            again = stage.learn(place, folder)
            complaints.append(ended(again, 0, 78))
            # Without its record it could be a folder of somebody else.
            if "remove" in again.last_line or "new folder" in again.last_line:
                shutil.rmtree(folder)
                complaints.append(ended(stage.learn(place, folder), 0))
            complaints.append(unlike(folder, whole))
            message = life.last_line if life.end() else ""
            complaints.append(unnamed(Path(folder.name, file), message))
            tally.judge(f"{file} {kind}", *complaints, message=message)
    return tally.closed(stage, place)


def faults() -> Iterator[Fault]:
    """All of them."""
    for kind in KINDS:
        name, flips = f"checkpoint file {kind}", kind == "with a changed bit"
        trial = partial(checkpoint_files, name, kind)
        yield Fault(name, trial, jobs=2 if flips else 1, quick=int(flips))
    for name, whole, jobs, quick in (
        ("checkpoint file damaged, whole run", checkpoint_in_a_run, _WHOLE_RUNS, 0),
        ("all checkpoints damaged", all_checkpoints, 1, 0),
        ("checkpoint folder half there", checkpoint_folders, 1, 0),
        ("file of the run folder damaged", run_folder_files, 1, 0),
        ("file of the store damaged", store_files, 2, 1),
        ("store damaged and made again", store_is_mended, 2, 0),
        ("file of the tokenizer damaged", tokenizer_files, 1, 0),
    ):
        yield Fault(name, partial(whole, name), jobs, quick)
