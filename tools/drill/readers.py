"""All file readers, each with valid files and changes for their format."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import sys
from collections.abc import Sequence
from contextlib import chdir
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import Phase, RunConfig, as_dict
from bert_jax.nn.encoder import init_params
from bert_jax.training import checkpoint, metrics
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.sources.files import SpanSource
from pipelines.data.sources.registry import SOURCES
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import LEDGER, Store
from pipelines.data.tokenizers import export, extend, tokenizer
from pipelines.data.tokenizers import record as records
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary
from pipelines.json_files import read_json
from pipelines.models import features, model_card
from pipelines.models.formats import google_research, hugging_face
from pipelines.models.open import network_of, open_model
from pipelines.settings import command_parser, config_from_dict, read_config, run_config, to_yaml
from pipelines.tasks import thresholds
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.qa import score
from pipelines.tasks.registry import OTHER_USES, TASKS
from pipelines.tasks.task import Columns, Task
from support.corpora import VOCABULARY, write_corpus
from support.row_files import WRITERS
from tools.drill import changes
from tools.drill.observed import Reader
from tools.drill.readers_labeled import LABELED_READERS
from tools.drill.readers_report import REPORT_READERS
from tools.drill.readers_tpu import TPU_READERS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = Path(__file__).parents[2] / "tests/golden"
_NETWORK = ModelConfig(
    vocab_size=72, hidden_size=16, layers=1, heads=2, feed_forward_size=32, max_positions=32
)
_PHASES = (Phase(length=32, steps=2, batch_size=4),)
_TEXT = "A story of \u201cwords\u201d, the 3rd.\nIt has two lines.\n\nAnother one, h\u00e9las.\n"


def _write(folder: Path, **files: str | bytes) -> None:
    """Write files; "__" in a name stands for the dot."""
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)


def _json(*records: Any) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def make_configs(folder: Path) -> None:
    config = as_dict(RunConfig(run_dir="run", phases=_PHASES))
    finetune = as_dict(FinetuneConfig(run_dir="run", data=TaskDataConfig("train.tsv")))
    _write(
        folder,
        config__yaml=_json(config | {"base": "base.yaml"}),
        base__yaml=_json({"seed": 3, "model": {"preset": "bert-tiny"}}),
        finetune__yaml=_json(finetune),
    )


def read_configs(folder: Path) -> None:
    to_yaml(run_config(["--config", str(folder / "config.yaml")]))
    parser = command_parser("finetune", "")
    to_yaml(read_config(parser, ["--config", str(folder / "finetune.yaml")], FinetuneConfig)[0])


def _tokenizer(kind: Kind) -> tokenizer.Tokenizer:
    lines = [*_TEXT.splitlines(), "so many words as there are letters in a small vocabulary"]
    return train_vocabulary(kind, lines, 48, uncased=True)


def make_vocabulary(folder: Path) -> None:
    _tokenizer("wordpiece").save(folder)


def make_tokenizer_json(folder: Path) -> None:
    export.export(_tokenizer("wordpiece"), folder, 32)
    for path in folder.iterdir():
        if path.name != tokenizer.JSON_FILE:
            path.unlink()


def make_sentencepiece(folder: Path) -> None:
    _tokenizer("unigram").save(folder)


def read_tokenizer(folder: Path) -> None:
    loaded = tokenizer.load(folder)
    ids = loaded.encode([_TEXT, "", "\0\ufeff \U0001f600"])
    loaded.encode_with_offsets([_TEXT])
    loaded.encode_masked("A [MASK] of words")
    loaded.decode(ids[0])
    loaded.word_starts()
    [loaded.spelled(token_id) for token_id in range(loaded.vocab_size)]
    loaded.save(folder / "copy")


def make_list(folder: Path) -> None:
    pieces = [*_tokenizer("wordpiece").pieces, "[unused1]", "[unused2]"]
    tokenizer.WordPieceTokenizer(pieces, uncased=True).save(folder)
    _write(folder, words__list="stent\nartery\n")


def read_words(folder: Path) -> None:
    loaded = tokenizer.load(folder)
    assert isinstance(loaded, tokenizer.WordPieceTokenizer)
    extend.read_words(loaded, folder / "words.list", 2)


def make_hugging_face(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "hugging_face" / name, folder)


def make_shards(folder: Path) -> None:
    make_hugging_face(folder)
    changes.split_weights(folder)


def make_tf1(folder: Path) -> None:
    for path in (GOLDEN / "tf1").glob("bert_*"):
        shutil.copy(path, folder)


def make_store(folder: Path) -> None:
    corpus = write_corpus(folder / "corpus.txt", 40)
    lines = [line for line in corpus.read_text("utf-8").splitlines() if line]
    words = train_vocabulary("wordpiece", lines, VOCABULARY, uncased=True)
    words.save(folder / "words")
    prepare([f"text:{corpus}"], folder / "words", folder / "store", 0.2)
    # Relative paths, so that the store can be copied.
    ledger = folder / "store" / LEDGER
    ledger.write_text(ledger.read_text("utf-8").replace(f"{folder}/", ""), "utf-8")


def read_store(folder: Path, verify: bool) -> None:
    store = Store(folder / "store")
    if verify:
        store.verify_all()
    config = RunConfig(run_dir="run", phases=_PHASES)
    data = PretrainingData(store, config)
    data.batch_at(0)
    list(data.held_out(32, 4, limit=1))


def prepare_again(folder: Path) -> None:
    """Repeat the command; the results of the first run may be damaged."""
    with chdir(folder):
        prepare(["text:corpus.txt"], Path("words"), Path("store"), 0.2)


def make_examples(task: str, folder: Path) -> None:
    module = import_module(f"support.task_files.{task.replace('-', '_')}")
    for name, content in module.SAMPLES.items():
        (folder / name).write_text(content, "utf-8")


def read_examples(task: type[Task], folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        examples = task().read(str(path), Columns(), labeled=False)
        assert examples
        if path.stem != "unlabeled":
            task().classes(task().read(str(path), Columns(), labeled=True))


def make_thresholds(folder: Path) -> None:
    for step in (3, 6):
        thresholds.write(folder, step, ["a", "b"], (0.25, 0.5))


def read_thresholds(folder: Path) -> None:
    thresholds.read(folder, 3, ["a", "b"])
    thresholds.write(folder, 9, ["a", "b"], (0.25, 0.5))


def read_squad(folder: Path) -> None:
    score.score(read_json(folder / "a.json"), {"a": "two lines", "b": ""})


def make_texts(folder: Path) -> None:
    _write(folder, b__jsonl=_json({"text": _TEXT}), c__txt="a text\na ||| b\n")


def read_texts(folder: Path) -> None:
    for name in ("b.jsonl", "c.txt"):
        list(features.read(folder / name))


def make_corpora(folder: Path) -> None:
    """Writes a file of every source, also compressed if the source reads that."""
    rows = [{"text": f"{_TEXT} {number}"} for number in range(20)]
    for scheme, writer in WRITERS.items():
        (folder / scheme).mkdir()
        writer(folder / scheme, rows)
    compress = {
        ".bz2": bz2.compress,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": zstd.compress,
    }
    for source in SOURCES:
        if source.example_file is None or source.scheme in WRITERS:
            continue
        name, text = source.example_file
        data = f"{text}\n".encode() * (20 if issubclass(source, SpanSource) else 1)
        path = folder / source.scheme / name
        path.parent.mkdir()
        path.write_bytes(data)
        for suffix in compress if issubclass(source, SpanSource) else ():
            path.with_name(name + suffix).write_bytes(compress[suffix](data))


def read_corpora(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        files = "" if path.name == "arrow" else "/*"
        for _ in open_corpus(f"{path.name}:{path}{files}").documents():
            pass


def make_metrics(folder: Path) -> None:
    line = {"step": 1, "loss": 2.5, "tokens": 100, "mfu": None, "seconds": 1.5}
    _write(
        folder, metrics__jsonl=_json(line, line | {"step": 2}, {"step": 2, "eval_mlm_loss": 2.0})
    )


def read_metrics(folder: Path) -> None:
    metrics.read(folder)
    model_card.results(folder, 2)
    metrics.open_truncated(folder / metrics.FILE, 1).close()


def make_checkpoint(folder: Path) -> None:
    config = as_dict(RunConfig(run_dir="run", phases=_PHASES, model=_NETWORK))
    meta = checkpoint.Meta(step=3, config=config, data={"tokenizer": "x"})
    checkpoint.save_params(folder, init_params(_NETWORK, 0), meta)


def read_checkpoint(folder: Path) -> None:
    model = open_model(folder)
    json.dumps(as_dict(model.run or model.network))


def read_meta(folder: Path) -> None:
    meta = checkpoint.newest_meta(folder)
    if meta is not None:
        network_of(meta, folder)
        config_from_dict(meta.config, str(folder), RunConfig)


def make_record(folder: Path) -> None:
    records.write(_tokenizer("unigram"), folder / "tokenizer", _RECORD)


def read_record(folder: Path) -> None:
    records.exists(folder / "tokenizer", _RECORD)


_RECORD = {"corpus": "text:x", "files": [["x", 3]], "vocab_size": 60, "kind": "unigram"}
_SHARDS = ("store/ledger.json", "store/*.npy", "store/*.npy")

READERS: Sequence[Reader] = (
    Reader("config.yaml", make_configs, read_configs, ("*.yaml",)),
    Reader("vocab.txt", make_vocabulary, read_tokenizer, ("*.*",)),
    Reader("tokenizer.json", make_tokenizer_json, read_tokenizer, ("*.*",)),
    Reader("sentencepiece.model", make_sentencepiece, read_tokenizer, ("*.*",)),
    Reader(
        "model.safetensors",
        make_hugging_face,
        hugging_face.read,
        ("*",),
        (changes.in_safetensors,),
    ),
    Reader(
        "safetensors in parts", make_shards, hugging_face.read, ("*",), (changes.in_safetensors,)
    ),
    Reader("TensorFlow checkpoint", make_tf1, google_research.read, ("*",), (changes.in_bundle,)),
    Reader(
        "store, verified",
        make_store,
        partial(read_store, verify=True),
        _SHARDS,
        (changes.in_array,),
        repair=changes.correct_hashes,
    ),
    Reader(
        "store, not verified",
        make_store,
        partial(read_store, verify=False),
        _SHARDS,
        (changes.in_array,),
    ),
    Reader("tokenizer's record", make_record, read_record, ("tokenizer/*.json",)),
    Reader("list of words", make_list, read_words, ("*.list",)),
    *(
        Reader(
            f"examples of {task.name}",
            partial(make_examples, task.name),
            partial(read_examples, task),
            ("*",),
        )
        for task in (*TASKS.values(), *OTHER_USES)
    ),
    Reader("thresholds.json", make_thresholds, read_thresholds, ("*",)),
    Reader("SQuAD scores", partial(make_examples, "qa"), read_squad, ("*",)),
    Reader("JSON Lines of texts", make_texts, read_texts, ("*",)),
    Reader("corpora", make_corpora, read_corpora, ("*/*",), (changes.bomb,)),
    Reader("metrics.jsonl", make_metrics, read_metrics, ("*",)),
    Reader("checkpoint's meta", make_checkpoint, read_meta, ("**/metadata",), (changes.in_meta,)),
    Reader(
        "checkpoint", make_checkpoint, read_checkpoint, ("checkpoints/**/*",), (changes.in_meta,)
    ),
    Reader("finished store", make_store, prepare_again, ("words/*", "store/*.json")),
    *LABELED_READERS,
    *REPORT_READERS,
    *TPU_READERS,
)
