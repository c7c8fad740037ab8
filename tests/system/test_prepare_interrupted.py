"""Stores after interruptions: they are completed, repaired or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert_jax.runtime.errors import UserError
from pipelines.data.sources import corpora
from pipelines.data.store import assemble, shards
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import WORK
from support.commands import refused, run_process, small_disk
from support.corpora import content


def test_an_interruption_during_assembly(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(corpus.read_text("utf-8") + "\n" + corpus.read_text("utf-8")[:8000], "utf-8")
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    prepare([f"text:{text}"], tokenizer_dir, tmp_path / "whole", 0.2)
    real, calls = assemble._shard, 0

    def interrupted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(assemble, "_shard", interrupted)
    out = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare([f"text:{text}"], tokenizer_dir, out, 0.2)
    monkeypatch.setattr(assemble, "_shard", real)
    prepare([f"text:{text}"], tokenizer_dir, out, 0.2)
    assert content(out) == content(tmp_path / "whole")


def test_an_interruption_at_the_end_is_repaired(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "whole", 0.2)
    out = tmp_path / "store"

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    for function in ("card.write", "shutil.rmtree"):  # before and after the ledger
        with monkeypatch.context() as patch:
            patch.setattr(f"pipelines.data.store.assemble.{function}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                prepare([f"text:{corpus}"], tokenizer_dir, out, 0.2)
        assert (out / WORK).is_dir()
        if function == "card.write":
            (out / "tokenizer" / "sentencepiece.model").write_bytes(b"half")
        (out / "card.json.7.tmp").write_text("half")
    prepare([f"text:{corpus}"], tokenizer_dir, out, 0.2)
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize(
    "file",
    [f"{WORK}/*/train.hashes.npy", f"{WORK}/*/train.tokens.npy", "train-*.tokens.npy"],
    ids=["hashes", "read again", "moved into the store"],
)
def test_a_damaged_block_of_an_unfinished_store_is_rebuilt(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(
        2 * (corpus.read_text("utf-8") + "\n"), "utf-8"
    )  # duplicates, so blocks are read twice
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    prepare([f"text:{text}"], tokenizer_dir, tmp_path / "whole", 0.2)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.data.store.assemble.card.write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([f"text:{text}"], tokenizer_dir, out, 0.2)
    damaged = min(out.glob(file))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=f"{damaged.name} is damaged; run the same command again"):
        prepare([f"text:{text}"], tokenizer_dir, out, 0.2)
    prepare([f"text:{text}"], tokenizer_dir, out, 0.2)
    assert content(out) == content(tmp_path / "whole")


def test_a_disk_that_is_full_before_the_first_block(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=20k") as disk:
        options = ("--corpus", f"text:{corpus}", "--tokenizer", tokenizer_dir)
        refused(
            run_process("prepare", *options, "--out", disk / "store"), 78, "no space left", "room"
        )


def test_a_lost_block_or_document_is_detected(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    real = shards.make_shard

    def loses_one(job: shards.Job, block: corpora.Block) -> object:
        return real(job, block) if block.name != "00-00001" else {}

    monkeypatch.setattr("pipelines.data.store.shard_runners.make_shard", loses_one)
    with pytest.raises(UserError, match=r"blocks were lost by the runner \(00-00001"):
        prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "store", 0.2)
    monkeypatch.setattr("pipelines.data.store.shard_runners.make_shard", real)
    record = next((tmp_path / "store" / WORK).glob(f"*/{shards.RECORD}"))
    fields = json.loads(record.read_text())
    record.write_text(json.dumps(fields | {"read": fields["read"] + 1}))
    with pytest.raises(UserError, match="documents were read, but"):
        prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "store", 0.2)
