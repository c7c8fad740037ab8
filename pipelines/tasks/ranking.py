"""Ranking of passages by a classification model of pairs, which sorts them by probability.

Candidates are rows with ``query``, ``passage``, ``label`` (relevant or not, such as 1 and 0) and
``query_id``. Without query_id, equal texts are the same query. The last class means relevant.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.classification import Classification
from pipelines.tasks.endpoint import Endpoint, Field
from pipelines.tasks.tables.examples import LABELS, PAIRS, Example, examples_of, text_columns
from pipelines.tasks.tables.labels import labeled as with_labels
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import REQUEST_ID, Columns, Record

_QUERY_ID = "query_id"
_TOP = 10  # MRR@10, as for MS MARCO


@dataclass(frozen=True, slots=True)
class Candidate(Example):
    """A query and a passage.

    Attributes:
        query_id: Candidates with the same id compete.
    """

    query_id: str = ""


@dataclass(frozen=True)
class Ranked:
    """A query and passages."""

    query: str
    passages: list[str]


@dataclass(frozen=True)
class RankedPassage:
    """A passage, by its index in the request, from 0."""

    index: int
    rank: int
    score: float


@dataclass(frozen=True)
class Ranking:
    """The passages, best first."""

    ranking: list[RankedPassage]
    truncated: bool


class PassageRanking(Classification):
    """A use of classification models of pairs, scored by the ranks of relevant passages."""

    name = "ranking"
    summary = "Passages in the order of their relevance"
    best_metric = "mrr"
    needs_pairs = True
    endpoint = Endpoint(
        Ranked,
        Ranking,
        title="Ranking",
        text="Passages in the order in which they answer a query. This needs a model that was"
        " trained on pairs of a query and a passage.",
        button="Rank",
        fields={
            "query": Field("Query", "Who repaired the clock?", rows=1),
            "passages": Field(
                "Passages, one per line (2 to 16)",
                "The captain repaired the broken clock.\nThe doctor paints the blue door.\n"
                "A clock stands behind the house.",
                rows=6,
            ),
        },
    )

    @classmethod
    def fits(cls, classes: Sequence[str]) -> bool:
        """See `Task.fits`; the two classes are irrelevant and relevant."""
        return len(classes) == 2

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Any]:
        """See `Task.read`; returns `Candidate`."""
        table = read(source, columns, self.bad_rows)
        if labeled:  # so that the queries are those of the examples
            table = with_labels(table, table.column(columns.label, LABELS, "label"))
        if not text_columns(table, columns)[1]:
            table.column("", tuple(second for _, second in PAIRS), "pair")
        examples = examples_of(table, columns, labeled, more=(_QUERY_ID,))
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
                f"{examples[0].where.rpartition(', ')[0]} has {len(classes)} different labels"
                f" ({', '.join(classes)[:60]}); ranking needs two, irrelevant and relevant"
            )
        return classes

    def score(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return ``mrr``, ``mrr@10`` and the metrics of `Classification`."""
        queries = rank(scored(examples, predictions, classes))
        missed = sum(not any(record["relevant"] for record in records) for records in queries)
        if missed:
            say(f"{missed:,} of {len(queries):,} queries have no relevant passage and score 0")
        return {
            "mrr": reciprocal_rank(queries),
            f"mrr@{_TOP}": reciprocal_rank(queries, _TOP),
            **super().score(examples, predictions, classes),
        }

    def from_request(self, request: Ranked) -> list[Any]:  # type: ignore[override]
        """See `Task.from_request`; the ids are the indices of the passages."""
        return [
            Candidate(str(index), request.query, passage, query_id=REQUEST_ID)
            for index, passage in enumerate(request.passages)
        ]

    def response(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        passages = [
            {"index": int(record["id"]), "rank": record["rank"], "score": record["score"]}
            for record in ranked(examples, predictions, classes)
        ]
        return {"ranking": passages}


def ranked(
    candidates: Sequence[Candidate], predictions: Sequence[Record], classes: Sequence[str]
) -> list[Record]:
    """Return the records of all queries, the best passage of each query first."""
    queries = rank(scored(candidates, predictions, classes))
    return [record for records in queries for record in records]


def scored(
    candidates: Sequence[Candidate], predictions: Sequence[Record], classes: Sequence[str]
) -> list[Record]:
    """Return records for `rank`.

    Returns:
        ``{"query_id", "id", "score"}`` of each candidate. The score is the probability of the last
        class. Labeled candidates also have ``relevant`` (bool).
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
    """Sort the candidates of each query, best first; queries keep the order of the file.

    A checksum of the ids orders equal scores. The order of the file would often put the relevant
    passage first, and so reward a model that cannot distinguish passages.

    Returns:
        The records, each with its ``rank``, from 1.
    """
    queries: dict[str, list[Record]] = {}
    for record in records:
        queries.setdefault(record[_QUERY_ID], []).append(record)
    return [
        [
            record | {"rank": position}
            for position, record in enumerate(sorted(candidates, key=_sort_key), start=1)
        ]
        for candidates in queries.values()
    ]


def reciprocal_rank(queries: Sequence[Sequence[Record]], most: int | None = None) -> float:
    """Return the mean reciprocal rank of the first relevant candidate.

    Args:
        queries: From `rank`, of records that have ``relevant``.
        most: Later ranks count as 0. A query without a relevant candidate also does.
    """
    values = (
        next((1 / record["rank"] for record in records[:most] if record["relevant"]), 0.0)
        for records in queries
    )
    return sum(values) / len(queries)


def _sort_key(record: Record) -> tuple[float, int]:
    return -record["score"], zlib.crc32(f"{record[_QUERY_ID]} {record['id']}".encode())
