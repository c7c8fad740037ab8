"""Labeled data sets of the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from bert_jax.runtime.errors import BadInputError, UnreachableError
from pipelines.data.hub.data_sets import hub_split
from pipelines.tasks.registry import open_task
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import Columns
from support.commands import ROOT, invoke
from support.hub_server import TOKEN, Hub, impatient_client, use

NAME = "hf:me/moods"
ROWS = [{"text": f"text {number}", "label": number % 2} for number in range(6)]
CLASSES = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}


def write(path: Path, rows: Sequence[dict[str, Any]] = ROWS, features: Any = CLASSES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(list(rows))
        if features:
            info = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": info})
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an empty data set, whose client is this process."""
    (tmp_path / "moods").mkdir()
    repositories = {"datasets/me/moods": {"main": tmp_path / "moods"}}
    with impatient_client(monkeypatch, repositories, tmp_path / "home") as hub:
        yield hub


def folder(hub: Hub) -> Path:
    return hub.repositories["datasets/me/moods"]["main"]


def readme(hub: Hub, header: str) -> None:
    (folder(hub) / "README.md").write_text(f"---\n{header}\n---\n# Moods\n", "utf-8")


def texts(source: str) -> list[str]:
    return [row["text"] for row in read(source).rows]


def test_the_shards_of_a_split_are_one_table_with_names_of_classes(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard, part in enumerate((ROWS[:4], ROWS[4:])):
        write(folder(hub) / f"data/train-{shard:05}-of-00002.parquet", part)
    write(folder(hub) / "data/test-00000-of-00001.parquet", [{"text": "x", "label": -1}])
    table = read(f"{NAME}:train")
    assert [row["text"] for row in table.rows] == [row["text"] for row in ROWS]
    assert [row["label"] for row in table.rows] == ["bad", "good"] * 3
    assert table.class_names == {"label": ["bad", "good"]}
    assert "train-00001-of-00002.parquet" in capsys.readouterr().err
    assert read(f"{NAME}:test").rows == [{"text": "x", "label": None}]
    assert not hub.ranges("validation")
    with pytest.raises(BadInputError, match="test, train"):
        read(f"{NAME}:validation")


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train.csv", "dev.csv", "test.csv"], "dev", ["dev.csv"]),
        (["train.csv", "dev.csv"], "validation", ["dev.csv"]),
        (["my_train_file.jsonl", "my-valid-file.jsonl"], "train", ["my_train_file.jsonl"]),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], "train",
         ["train/0.parquet", "train/1.parquet"]),
        (["data/train.csv", "data/train.parquet"], "train", ["data/train.parquet"]),
        (["all.csv"], "train", ["all.csv"]),
        (["data/extra-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"], "extra",
         ["data/extra-00000-of-00001.parquet"]),
        (["train.csv", "README.md", ".hidden/train.csv", "_old/train.csv"], "train", ["train.csv"]),
        (["train.jsonl.gz"], "train", ["train.jsonl.gz"]),
    ],
)  # fmt: skip
def test_splits_by_the_names_of_files(
    hub: Hub, names: list[str], split: str, expected: list[str]
) -> None:
    for name in names:
        (folder(hub) / name).parent.mkdir(parents=True, exist_ok=True)
        (folder(hub) / name).write_bytes(name.encode())
    files = hub_split(f"{NAME}:{split}").files
    assert [path.read_bytes().decode() for path in files] == expected


def test_configs_in_folders(hub: Hub) -> None:
    for config in ("cola", "sst2"):
        rows = [{"text": config, "label": 0}]
        write(folder(hub) / f"{config}/train-00000-of-00001.parquet", rows)
    assert texts(f"{NAME}/sst2:train") == ["sst2"]
    with pytest.raises(BadInputError, match="cola, sst2"):
        read(f"{NAME}:train")
    with pytest.raises(BadInputError, match="mrpc"):
        read(f"{NAME}/mrpc:train")


HEADERS = {
    "split and path": """
configs:
- config_name: first
  data_files: [{split: train, path: "a/x-*"}, {split: test, path: "a/y-*"}]
- config_name: second
  data_files: [{split: train, path: ["b/*.parquet"]}]
""",
    "a mapping": """
configs:
- config_name: first
  data_files: {train: "a/x-0.parquet", test: "a/y-0.parquet"}
- {config_name: second, data_files: "b/**"}
""",
    "folders": """
configs:
- {config_name: first, data_dir: a, data_files: [{split: train, path: "x-*.parquet"}]}
- {config_name: second, data_dir: "b"}
""",
}


@pytest.mark.parametrize("form", HEADERS)
def test_the_header_names_the_files(hub: Hub, form: str) -> None:
    for name in ("a/x-0", "a/y-0", "b/train-0"):
        write(folder(hub) / f"{name}.parquet", [{"text": name, "label": 1}])
    readme(hub, HEADERS[form])
    assert texts(f"{NAME}/first:train") == ["a/x-0"]
    assert texts(f"{NAME}/second:train") == ["b/train-0"]
    with pytest.raises(BadInputError, match="first, second"):
        read(f"{NAME}:train")
    readme(hub, HEADERS[form].replace("second\n", "default\n").replace("second,", "default,"))
    assert texts(f"{NAME}:train") == ["b/train-0"]


def test_the_header_names_the_classes(hub: Hub) -> None:
    write(folder(hub) / "data/train-00000-of-00001.parquet", features=None)
    info = "dataset_info: {features: [{name: text, dtype: string}, {name: label, dtype: "
    readme(hub, info + "{class_label: {names: {'0': calm, '1': angry}}}}]}")
    assert read(f"{NAME}:train").class_names == {"label": ["calm", "angry"]}
    # The file itself is nearer.
    write(folder(hub) / "data/train-00000-of-00001.parquet")
    assert read(f"{NAME}:train").class_names == {"label": ["bad", "good"]}
    readme(hub, "configs: [")
    assert read(f"{NAME}:train").class_names == {"label": ["bad", "good"]}
    for header in ("configs: 3", "configs: [{data_files: 3}, 4]", "dataset_info: [4]", "[]", "4"):
        readme(hub, header)
        assert len(read(f"{NAME}:train").rows) == len(ROWS)


def test_the_conversion_of_the_hub_is_read_if_there_is_nothing_else(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder(hub) / "moods.py").write_text("a loading script", "utf-8")
    with pytest.raises(BadInputError, match="convert"):
        read(f"{NAME}:train")
    write(tmp_path / "converted/plain_text/train/0000.parquet")
    hub.repositories["datasets/me/moods"]["refs/convert/parquet"] = tmp_path / "converted"
    assert len(texts(f"{NAME}:train")) == len(ROWS)
    assert "refs/convert/parquet" in capsys.readouterr().err
    assert len(texts(f"{NAME}/plain_text@refs/convert/parquet:train")) == len(ROWS)


def test_offline_only_complete_splits_are_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"data/train-{shard:05}-of-00002.parquet" for shard in range(2)]
    for name in names:
        write(folder(hub) / name)
    (path, _) = hub_split(f"{NAME}:train").files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(texts(f"{NAME}:train")) == 2 * len(ROWS)
    path.unlink()
    with pytest.raises(BadInputError, match="1 of 2"):
        read(f"{NAME}:train")


def test_wrong_bytes_and_interruptions(hub: Hub) -> None:
    name = "data/train-00000-of-00001.parquet"
    write(folder(hub) / name)
    right = (folder(hub) / name).read_bytes()
    hub.wrong[name] = right[:-1] + b"x"
    with pytest.raises(UnreachableError, match=name):
        read(f"{NAME}:train")
    hub.wrong.clear()
    hub.cuts[name] = [500, 0, 100]
    assert len(texts(f"{NAME}:train")) == len(ROWS)
    assert "bytes=600-" in hub.ranges(name)


@pytest.mark.parametrize(
    "source",
    ["hf:me/moods", "hf:me/moods:", "hf:me/moods:train[:10]", "hf:me/moods:train+test", "hf::train",
     "hf:a/b/c/d:train"],
)  # fmt: skip
def test_other_forms_are_refused(hub: Hub, source: str) -> None:
    with pytest.raises(BadInputError, match="SPLIT"):
        read(source)


def test_private_and_unknown_data_sets(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder(hub) / "train.csv")
    with pytest.raises(BadInputError, match="hf auth login"):
        read("hf:me/none:train")
    hub.private.add("datasets/me/moods")
    with pytest.raises(BadInputError, match="hf auth login"):
        read(f"{NAME}:train")
    use(monkeypatch, hub.url, tmp_path / "home", TOKEN)
    assert len(texts(f"{NAME}:train")) == len(ROWS)


def test_a_model_is_fine_tuned_and_predicts_on_data_sets(hub: Hub, tmp_path: Path) -> None:
    write(folder(hub) / "data/train-00000-of-00001.parquet", ROWS * 4)
    write(folder(hub) / "data/validation-00000-of-00001.parquet")
    run, model = tmp_path / "run", ROOT / "tests/golden/hugging_face"
    words = ("--data.train", f"{NAME}:train", "--data.validation", f"{NAME}:validation")
    words += ("--train.epochs", "1", "--run-dir", str(run))
    result = invoke("finetune", "classification", "--init", model, *words)
    assert result.returncode == 0, result.stderr
    assert "24 training and 6 validation examples" in result.stderr
    out = tmp_path / "out.jsonl"
    result = invoke("predict", run, "--input", f"{NAME}:validation", "--output", out, "--score")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert {record["label"] for record in records} <= {"bad", "good"}
    result = invoke("convert", run, tmp_path / "hf", "--to", "hf")
    assert f"train: {NAME}:train" in (tmp_path / "hf/README.md").read_text("utf-8")
    shutil.rmtree(folder(hub))


@pytest.mark.parametrize(
    ("task", "row", "features"),
    [
        ("tagging", {"tokens": ["Ada", "runs"], "ner_tags": [1, 0]},
         {"ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"},
                       "_type": "Sequence"}}),
        ("qa", {"id": "1", "question": "Who?", "context": "Ada runs.",
                "answers": {"text": ["Ada"], "answer_start": [0]}}, {}),
        ("regression", {"text": "a b", "label": 0.5}, {}),
        ("multiple-choice", {"text": "a", "choices": ["b", "c"], "label": 1}, {}),
        ("summarization", {"document": "A b. C d.", "summary": "A b."}, {}),
    ],
)  # fmt: skip
def test_every_task_reads_data_sets(hub: Hub, task: str, row: Any, features: Any) -> None:
    write(folder(hub) / "data/train-00000-of-00001.parquet", [row], features)
    (example,) = open_task(task).read(f"{NAME}:train", Columns(), labeled=True)
    if task == "tagging":
        assert example.tags == ["B-PER", "O"]
