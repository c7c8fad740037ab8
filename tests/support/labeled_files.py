"""Files of labeled data in the formats of other programs, and of the tasks of GLUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "List"},
    "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "ner_tags": {
        "feature": {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"},
        "_type": "List",
    },
}
ROWS: Rows = [
    {"text": "bad", "label": 0, "tags": [0, 1]},
    {"text": "good", "label": 1, "tags": [0]},
    {"text": "hidden", "label": -1, "tags": []},
]
_PAIR = ("is the cat good", 'a "fine" cat')
_STS_B = (
    *("index", "genre", "filename", "year", "old_index", "source1", "source2"),
    *("sentence1", "sentence2"),
)
_MNLI = (
    *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
    *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2"),
)

# Task of GLUE -> (file -> its lines), as distributed: headers, columns and their order.
GLUE: dict[str, dict[str, list[tuple[str, ...]]]] = {
    "CoLA": {
        "train.tsv": [("gj04", "1", "", "the cat is good"), ("gj04", "0", "*", 'cat the "is good')],
        "test.tsv": [("index", "sentence"), ("0", "the cat")],
    },
    "SST-2": {
        "train.tsv": [("sentence", "label"), ('a "fine film ', "1"), ("dull", "0")],
        "test.tsv": [("index", "sentence"), ("0", "the cat")],
    },
    "MRPC": {
        "msr_paraphrase_train.txt": [
            ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            ("1", "702876", "702977", *_PAIR),
            ("0", "2108705", "2108831", *_PAIR),
        ],
        "test.tsv": [
            ("\ufeffindex", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            ("0", "1089874", "1089925", *_PAIR),
        ],
    },
    "QQP": {
        "train.tsv": [
            ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
            ("133273", "213221", "213222", *_PAIR, "0"),
            ("402555", "536040", "536041", "how do I fix"),
            ("this line?", "is it?", "0"),
            ("360472", "364011", "490273", *_PAIR, "1"),
        ],
        "test.tsv": [("id", "question1", "question2"), ("0", *_PAIR)],
    },
    "STS-B": {
        "train.tsv": [
            (*_STS_B, "score"),
            ("0", "main-captions", "MSRvid", "2012test", "0001", "none", "none", *_PAIR, "5.000"),
            ("1", "main-captions", "MSRvid", "2012test", "0004", "none", "none", *_PAIR, "3.800"),
        ],
        "test.tsv": [
            _STS_B,
            ("0", "main-captions", "MSRvid", "2012test", "0024", "none", "none", *_PAIR),
        ],
    },
    "MNLI": {
        "train.tsv": [
            (*_MNLI, "label1", "gold_label"),
            ("0", "31193", "31193n", "letters", *("( ( a ) b )",) * 4, *_PAIR, *("neutral",) * 2),
            (
                "1",
                "31194",
                "31194e",
                "fiction",
                *("( a ( b ) )",) * 4,
                *_PAIR,
                *("entailment",) * 2,
            ),
        ],
        "test_matched.tsv": [
            _MNLI,
            ("0", "31493", "31493", "travel", *("( ( a ) b )",) * 4, *_PAIR),
        ],
    },
    "QNLI": {
        "train.tsv": [
            ("index", "question", "sentence", "label"),
            ("0", *_PAIR, "entailment"),
            ("1", *_PAIR, "not_entailment"),
        ],
        "test.tsv": [("index", "question", "sentence"), ("0", *_PAIR)],
    },
}
GLUE |= {
    task: {
        "train.tsv": [
            ("index", "sentence1", "sentence2", "label"),
            ("0", *_PAIR, labels[0]),
            ("1", *_PAIR, labels[1]),
        ],
        "test.tsv": [("index", "sentence1", "sentence2"), ("0", *_PAIR)],
    }
    for task, labels in {"RTE": ("not_entailment", "entailment"), "WNLI": ("1", "0")}.items()
}


def write_lines(path: Path, lines: Sequence[tuple[str, ...]]) -> Path:
    """Write fields between tabs, without quotes."""
    path.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8", newline="")
    return path


def described(rows: Rows) -> Any:
    """Return a table of pyarrow with the description that Hugging Face stores in its schema."""
    import pyarrow

    features = {name: FEATURES[name] for name in rows[0]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.Table.from_pylist(list(rows)).replace_schema_metadata(metadata)


def write_parquet(path: Path, rows: Rows) -> Path:
    """Write a file as on the hub."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(described(rows), path)
    return path


def save_to_disk(folder: Path, splits: dict[str, Rows]) -> Path:
    """Write what `DatasetDict.save_to_disk` writes."""
    import pyarrow

    for split, rows in splits.items():
        (folder / split).mkdir(parents=True)
        table = described(rows).replace_schema_metadata(None)
        file = folder / split / "data-00000-of-00001.arrow"
        with pyarrow.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
        content = {
            "state.json": {"_data_files": [{"filename": file.name}]},
            "dataset_info.json": {"features": FEATURES},
        }
        for name, value in content.items():
            (folder / split / name).write_text(json.dumps(value), "utf-8")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}), "utf-8")
    return folder
