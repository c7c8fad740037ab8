"""Labeled data on servers: the same as on disks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources import remote
from pipelines.models import features
from pipelines.tasks.classification import Classification
from pipelines.tasks.registry import TASKS
from pipelines.tasks.summarization.task import Summarization
from pipelines.tasks.task import Columns
from support import gcs_emulator, s3_server
from support.data_servers import data_servers
from support.hub_server import DATA_SET, hub_server
from support.labeled_files import ROWS, save_to_disk, write_parquet

FILES = {"tagging": "ner.conll", "qa": "questions.jsonl", "multiple-choice": "choices.jsonl"}
PROTOCOLS = ("http", "s3", "gs", "hf")
PLACES = (
    "a.csv",
    "a.jsonl.gz",
    "hub/:train",
    "saved/:train",
    "arrow:saved:train",
    "reviews/train/",
)
# A slash at the end makes a URL of an HTTP server a folder.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled data in files and folders."""
    data = tmp_path_factory.mktemp("servers") / "data"
    for name in ("hub/data", "reviews/train/pos", "reviews/train/neg"):
        (data / name).mkdir(parents=True)
        (data / name / "0_1.txt").write_text("good")
    (data / "a.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    (data / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "good", "label": "pos"}\n' * 2))
    (data / "texts.txt").write_text("one\ntwo ||| three\n")
    document = {"document": ["One is here.", "Two is there."], "summary": "One is here."}
    (data / "documents.jsonl").write_text(json.dumps(document))
    (data / "ner.conll").write_text("Ada B-PER\nsings O\n")
    answers = {"text": ["Ada"], "answer_start": [0]}
    question = {"id": "1", "question": "who?", "context": "Ada sings", "answers": answers}
    (data / "questions.jsonl").write_text(json.dumps(question))
    (data / "choices.jsonl").write_text('{"text": "a", "choices": ["b", "c"], "label": 1}')
    write_parquet(data / "hub" / "data" / "train-00000-of-00001.parquet", ROWS)
    save_to_disk(data / "saved", {"train": ROWS})
    return data


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """URLs of the folder at servers that clients find."""
    with ExitStack() as stack:
        addresses = stack.enter_context(data_servers(folder))
        hub = stack.enter_context(hub_server(folder))
        variables = gcs_emulator.variables(addresses["gs"])
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(remote, "_FIRST_WAIT", 0.02)
        for name, value in (variables | s3_server.variables(addresses["s3"])).items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "hf", {"endpoint": hub})
        remote._file_system.cache_clear()
        yield {
            "http": f"{addresses['http']}/data",
            "s3": "s3://bucket/data",
            "gs": "gs://bucket/data",
            "hf": f"hf://datasets/{DATA_SET}",
        }
    remote._file_system.cache_clear()


def examples(source: str) -> list[tuple[str, str, str]]:
    rows = Classification().read(source, Columns(), labeled=True)
    return [(row.id, row.text, row.label) for row in rows]


def at(base: str, place: str) -> str:
    scheme, colon, name = place.partition("arrow:")
    return f"{colon}{base}/{name or scheme}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labeled_data_at_urls(servers: dict[str, str], folder: Path, protocol: str) -> None:
    base = servers[protocol]
    for place in PLACES:
        assert examples(at(base, place)) == examples(at(str(folder), place)), place
    with pytest.raises(BadInputError, match="does not exist"):
        examples(f"{base}/none.csv")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_texts_and_documents_at_urls(servers: dict[str, str], protocol: str) -> None:
    base = servers[protocol]
    assert list(features.read(f"{base}/texts.txt")) == [("one",), ("two", "three")]
    for task, file in FILES.items():
        assert len(TASKS[task]().read(f"{base}/{file}", Columns(), labeled=True)) == 1
    [document] = Summarization().read(f"{base}/documents.jsonl", Columns(), labeled=True)
    assert document.sentences == ("One is here.", "Two is there.")
