"""Passages in the order in which they answer a query: a pair task whose probabilities are sorted.

Candidates are rows with ``query``, ``passage``, ``label`` (relevant or not, such as 1 and 0) and
``query_id``; without the latter, equal queries are the same one. The last class means relevant.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks import table_reader
from pipelines.tasks.classification import Classification
from pipelines.tasks.table_reader import Example
from pipelines.tasks.task import Columns, Record

_QUERY_ID = "query_id"
_SHOWN = 10  # passages that a reader looks at: MRR@10, as MS MARCO counts


@dataclass(frozen=True, slots=True)
class Candidate(Example):
    """A query and a passage.

    Attributes:
        query_id: Candidates with the same one compete.
    """

    query_id: str = ""


class Ranking(Classification):
    """See `Task`. A classification of pairs, judged by the ranks of relevant passages."""

    best = "mrr"

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Any]:
        """See `Task.read`; returns `Candidate`."""
        table = table_reader.read(source)
        if not table_reader.text_columns(table, columns)[1]:
            table.column("", tuple(table_reader.PAIRS.values()), "pair")
        examples = table_reader.examples(table, columns, labelled)
        queries = [example.text for example in examples]
        if _QUERY_ID in table.columns:
            queries = table.names(_QUERY_ID)
        return [
            Candidate(**asdict(example), query_id=query)
            for example, query in zip(examples, queries, strict=True)
        ]

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """See `Classification.classes`.

        Raises:
            BadInputError: There are not exactly two.
        """
        classes = super().classes(examples)
        if len(classes) > 2:
            raise BadInputError(
                f"{examples[0].where.rpartition(', ')[0]} has the labels {', '.join(classes)[:60]};"
                " passages are either relevant or not"
            )
        return classes

    def score(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """``mrr`` and ``mrr@10``, beside those of `Classification`."""
        ranked = rank(scored(examples, predictions, classes))
        missed = sum(not any(record["relevant"] for record in records) for records in ranked)
        if missed:
            say(f"{missed:,} of {len(ranked):,} queries have no relevant passage; each counts as 0")
        return {
            "mrr": reciprocal_rank(ranked),
            f"mrr@{_SHOWN}": reciprocal_rank(ranked, _SHOWN),
            **super().score(examples, predictions, classes),
        }


def scored(
    candidates: Sequence[Candidate], predictions: Sequence[Record], classes: Sequence[str]
) -> list[Record]:
    """What `rank` sorts.

    Returns:
        ``{"query_id", "id", "score"}`` of each candidate; the score is the probability of the last
        class. Those with labels also have ``relevant`` (bool).
    """
    records = []
    for candidate, prediction in zip(candidates, predictions, strict=True):
        record = {
            _QUERY_ID: candidate.query_id,
            "id": candidate.id,
            "score": prediction["probabilities"][classes[-1]],
        }
        if candidate.label:
            record["relevant"] = candidate.label == classes[-1]
        records.append(record)
    return records


def rank(records: Iterable[Record]) -> list[list[Record]]:
    """The candidates of each query, best first; queries in the order of their first candidates.

    Equal scores are ordered by a checksum of the ids: the order of the file would often put the
    relevant passage first, and so reward a model that cannot tell passages apart.

    Returns:
        The records, each with its ``rank``, from 1.
    """
    queries: dict[str, list[Record]] = {}
    for record in records:
        queries.setdefault(record[_QUERY_ID], []).append(record)
    return [
        [
            record | {"rank": place}
            for place, record in enumerate(sorted(candidates, key=_order), start=1)
        ]
        for candidates in queries.values()
    ]


def reciprocal_rank(ranked: Sequence[Sequence[Record]], most: int | None = None) -> float:
    """Mean reciprocal rank of the first relevant candidate.

    Args:
        ranked: From `rank`, of records that have ``relevant``.
        most: Later ranks count as 0; so does a query without a relevant candidate.
    """
    firsts = (
        next((1 / record["rank"] for record in records[:most] if record["relevant"]), 0.0)
        for records in ranked
    )
    return sum(firsts) / len(ranked)


def _order(record: Record) -> tuple[float, int]:
    return -record["score"], zlib.crc32(f"{record[_QUERY_ID]} {record['id']}".encode())


TASK = Ranking()
