"""Preparing real corpora: any number of workers, any interruption, any source."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.sources import corpora
from pipelines.data.store import assemble, shards
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import LEDGER, SPLITS, WORK, Store
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.folders import exclusive
from support.commands import invoke, refused, run_process, small_disk, start
from support.corpora import compressed, content, write_corpus, write_many


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of ten megabytes, for five blocks; one sentence per line."""
    return write_many(tmp_path_factory.mktemp("large") / "large text \u00fc.txt", 17_000)


@pytest.fixture(scope="module")
def whole(large: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `large`, made by one process without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    prepare([f"text:{large}"], tokenizer_dir, folder, 0.1)
    return folder


def arguments(large: Path, tokenizer_dir: Path, out: Path) -> tuple[str | Path, ...]:
    return (
        "prepare", "--corpus", f"text:{large}", "--tokenizer", tokenizer_dir, "--out", out,
        "--held-out", "0.1",
    )  # fmt: skip


def test_options_of_older_versions_are_read_with_a_notice(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    words = list(arguments(corpus, tokenizer_dir, tmp_path / "new"))
    assert invoke(*words).returncode == 0
    words[words.index(tmp_path / "new")] = tmp_path / "old"
    words[words.index("--held-out")] = "--heldout"
    result = invoke(*words, "--min_characters", "0")
    assert result.returncode == 0, result.stderr
    assert "--heldout is now called --held-out" in result.stderr
    assert Store(tmp_path / "old").ledger.digest == Store(tmp_path / "new").ledger.digest


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    large: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "store"
    result = invoke(*arguments(large, tokenizer_dir, out), "--workers", str(workers))
    assert result.returncode == 0, result.stderr
    assert "MB/s" in result.stderr
    assert len(Store(out).ledger.splits["train"]) == 5
    assert content(out) == content(whole)


def test_killed_at_any_time_it_resumes_and_the_bytes_are_the_same(
    large: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)  # noqa: S311
    out = tmp_path / "store"
    finished = f"{WORK}/*/{shards.RECORD}"
    kept: list[int] = []
    while not (out / LEDGER).exists():
        began = {path: path.stat().st_mtime_ns for path in out.glob(finished)}
        kept.append(len(began))
        process = start(*arguments(large, tokenizer_dir, out), "--workers", "2")
        while process.poll() is None and len(list(out.glob(finished))) <= len(began):
            time.sleep(0.01)
        # The first one at once: all blocks may be finished soon.
        time.sleep(rng.uniform(0, 0.3) if len(kept) > 1 else 0)
        process.send_signal(signal.SIGKILL if len(kept) % 2 else signal.SIGTERM)
        output = process.communicate(timeout=60)[1]
        assert process.returncode in (-signal.SIGKILL, 75, 0), output
        assert all(path.stat().st_mtime_ns == time for path, time in began.items() if path.exists())
    assert len(kept) > 1
    assert kept == sorted(kept)
    assert content(out) == content(whole)


def test_compression_and_block_size_change_no_token(
    corpus: Path, store: Store, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = compressed(Path(shutil.copy(corpus, tmp_path)), ".zst")
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    prepare([f"text:{packed}"], tokenizer_dir, tmp_path / "store", 0.1)
    reread = Store(tmp_path / "store")
    for name in SPLITS:
        expected_split, split_read = store.split(name), reread.split(name)
        assert np.array_equal(expected_split.document_offsets, split_read.document_offsets)
        assert np.array_equal(expected_split.sentence_offsets, split_read.sentence_offsets)
        tokens = [
            np.concatenate([t for _, t in split.shards()]) for split in (expected_split, split_read)
        ]
        assert np.array_equal(*tokens)


def test_a_mixture_is_one_corpus_after_the_other(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    texts = [json.dumps({"body": f"Number {n} is told. It is short."}) for n in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(texts), "utf-8")
    specs = [f"text:{corpus}", f"jsonl:{tmp_path}/a.jsonl#body"]
    ledger = prepare(specs, tokenizer_dir, tmp_path / "store", 0.1)
    assert ledger.corpus == " + ".join(specs)
    assert {shard.name for shard in ledger.splits["train"]} == {"train-00-00000", "train-01-00000"}
    # The stories have a sentence per line, the others a text.
    assert ledger.recipe["whole_lines"] == [True, False]
    assert sum(shard.sentences for shard in ledger.splits["train"] if "-01-" in shard.name) % 2 == 0


def test_lines_may_be_declared_sentences(tokenizer_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("One is told. Two are told.\n\nThree are told. Four are told.\n", "utf-8")
    counts = {}
    for how in ("auto", "lines", "split"):
        result = prepare([f"text:{text}"], tokenizer_dir, tmp_path / how, 0, sentences=how)  # type: ignore[arg-type]
        counts[how] = result.total("train", "sentences")
    assert counts == {"auto": 4, "lines": 2, "split": 4}


def test_copies_and_short_documents_are_skipped(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one stays, whichever block it is in, and however little memory there is."""
    documents = corpus.read_text("utf-8").strip().split("\n\n")
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join([*documents, *documents[:50], "Hi.", *documents[20:]]), "utf-8")
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    stores = []
    for most in (1 << 23, 7):
        monkeypatch.setattr(assemble, "_MAX_HASHES", most)
        out = tmp_path / f"store{most}"
        ledger = prepare([f"text:{text}"], tokenizer_dir, out, 0.2, min_characters=10)
        assert ledger.counts["duplicates"] == 50 + len(documents) - 20
        assert ledger.counts["too_short"] == 1
        stores.append(content(out))
    assert stores[0] == stores[1]
    text.write_text("\n\n".join(documents), "utf-8")
    prepare([f"text:{text}"], tokenizer_dir, tmp_path / "plain", 0.2)
    for name in SPLITS:
        deduplicated, expected = (Store(tmp_path / x).split(name) for x in ("store7", "plain"))
        assert np.array_equal(deduplicated.sentence_offsets, expected.sentence_offsets)
        assert np.array_equal(deduplicated.document_offsets, expected.document_offsets)


def test_unfinished_work_of_another_command_is_not_touched(
    large: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    process = start(*arguments(large, tokenizer_dir, out), "--workers", "1")
    while not list(out.glob(f"{WORK}/*/{shards.RECORD}")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = content(out)
    base = arguments(large, tokenizer_dir, out)
    refused(invoke(*base, "--min-characters", "5"), 78, "unfinished", "min_characters 0")
    assert {key: value for key, value in content(out).items() if key in before} == before
    with exclusive(out):
        refused(invoke(*base), 69, "another process", str(out))


def test_a_changed_corpus_is_noticed(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    shutil.copy(corpus, tmp_path / "a.txt")
    base = ("prepare", "--corpus", f"text:{tmp_path}/*.txt", "--tokenizer", tokenizer_dir)
    base = (*base, "--out", tmp_path / "store", "--workers", "1")
    assert invoke(*base).returncode == 0
    write_corpus(tmp_path / "b.txt", 5)
    refused(invoke(*base), 78, "changed", "remove it")


def test_a_sentence_beyond_all_bounds_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b " * 60_000 + "\n\nAnother one.\n\nAnd one.\n")
    base = ("prepare", "--corpus", f"text:{tmp_path}/a.txt", "--tokenizer", tokenizer_dir)
    result = invoke(*base, "--out", tmp_path / "store")
    refused(result, 78, str(tmp_path / "a.txt"), "tokens", "65,535")
    assert not (tmp_path / "store").exists()


def test_a_full_disk_keeps_what_is_finished(
    large: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=6m") as disk:
        base = arguments(large, tokenizer_dir, disk / "store")
        refused(invoke(*base, "--workers", "1"), 78, "no space left", str(disk))
        assert not list(disk.rglob("*.tmp"))
        assert list((disk / "store").glob(f"{WORK}/*/{shards.RECORD}"))
        assert not (disk / "store" / LEDGER).exists()
        shutil.copytree(disk / "store", tmp_path / "store")
    result = invoke(*arguments(large, tokenizer_dir, tmp_path / "store"))
    assert result.returncode == 0, result.stderr
    assert "resuming after" in result.stderr
    assert content(tmp_path / "store") == content(whole)


def test_the_card_describes_the_store(store: Store, store_dir: Path) -> None:
    card = json.loads((store_dir / "card.json").read_text("utf-8"))
    split = store.split("train")
    assert card["splits"]["train"]["tokens"] == split.tokens
    assert card["store_sha256"] == store.ledger.digest
    assert sum(card["splits"]["train"]["tokens_per_document"].values()) == split.documents
    tokens = np.concatenate([tokens for name in SPLITS for _, tokens in store.split(name).shards()])
    unknown = (tokens == store.tokenizer.unk_id).mean()
    assert card["unknown_rate"] == pytest.approx(float(unknown))
    text = (store_dir / "card.md").read_text("utf-8")
    assert f"{split.tokens:,}" in text
    assert "Licence" in text


BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"body": tfds.features.Text(), "number": tfds.features.Scalar(np.int32)}
            ),
            redistribution_info={"license": "CC0-1.0"},
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(300):
            text = f"_START_PARAGRAPH_\\nNumber {number} is told.\\nIt is."
            text = "_START_ARTICLE_\\nTitle\\n" + text
            yield number, {"body": text, "number": number}
"""


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets with one that was prepared without TensorFlow."""
    folder = tmp_path_factory.mktemp("tfds")
    package = folder / "code" / "told"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "told_dataset_builder.py").write_text(BUILDER)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from told.told_dataset_builder import Builder;"
        "Builder(data_dir=sys.argv[2]).download_and_prepare(file_format='array_record')"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(folder / "code"), str(folder / "data")],
        check=True,
        capture_output=True,
    )
    return folder / "data"


def test_tensorflow_data_sets_are_read_without_tensorflow(
    data_sets: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    base = ("prepare", "--tokenizer", tokenizer_dir, "--out", tmp_path / "store", "--workers", "2")
    where = {"TFDS_DATA_DIR": str(data_sets)}
    refused(run_process(*base, "--corpus", "tfds:wikipdia", **where), 78, "did you mean wikipedia")
    refused(run_process(*base, "--corpus", "tfds:told", **where), 78, "no field 'text'", "body")
    result = run_process(*base, "--corpus", "tfds:told#body", **where)
    assert result.returncode == 0, result.stderr
    store = Store(tmp_path / "store")
    assert sum(store.ledger.total(split, "documents") for split in SPLITS) == 300
    assert sum(store.ledger.total(split, "sentences") for split in SPLITS) == 600
    assert store.ledger.licence == "CC0-1.0"


def test_the_word_piece_trainer_reads_a_corpus_twice_without_keeping_it(
    corpus: Path, tmp_path: Path
) -> None:
    base = ("train-tokenizer", "--corpus", f"text:{corpus}", "--out", tmp_path / "wp")
    result = invoke(*base, "--vocab-size", "90", "--kind", "wordpiece")
    assert result.returncode == 0, result.stderr
    assert tokenizers.load(tmp_path / "wp").vocab_size == 90


@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_processing",
            "--direct_num_workers=2",
        ),
    ],
)
def test_beam_makes_the_same_bytes(
    large: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
    base = arguments(large, tokenizer_dir, tmp_path / "store")
    result = invoke(*base, "--runner", "beam", "--", *options)
    assert result.returncode == 0, result.stderr
    assert content(tmp_path / "store") == content(whole)
