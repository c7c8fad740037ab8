"""Rows of labeled data that cannot be read, and how skipped ones are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError

REMEDY = "skip such rows: --data.bad_rows skip (predict: --bad-rows skip)"
_LISTED = 3


@dataclass(frozen=True)
class BadRows:
    """What to do with rows that cannot be read.

    Attributes:
        skip: Skip and count them, instead of stopping at the first one.
        most: Largest fraction of the rows that may be skipped.
    """

    skip: bool = False
    most: float = 0.1

    def check(
        self, source: str, skipped: Sequence[str], rows: int, reason: str = "not readable"
    ) -> None:
        """Report the positions of skipped rows.

        Args:
            source: The file or data set.
            skipped: Positions of the rows.
            rows: Number of all rows.
            reason: Why they are skipped.

        Raises:
            BadInputError: They are more than the limit.
        """
        if len(skipped) > self.most * rows:
            raise BadInputError(
                f"{source}: {len(skipped):,} of {rows:,} rows cannot be used: {reason}"
                f" ({listed(source, skipped)}), a larger fraction than"
                f" data.max_bad {self.most:g}; correct them, or raise data.max_bad"
            )
        report_skipped(source, skipped, reason)


STOP = BadRows()


def report_skipped(source: str, locations: Sequence[str], reason: str) -> None:
    """Print that rows are skipped; nothing if there are none."""
    if locations:
        rows = "row" if len(locations) == 1 else "rows"
        say(f"{source}: {len(locations):,} {rows} skipped: {reason} ({listed(source, locations)})")


def listed(source: str, locations: Sequence[str]) -> str:
    """List the first positions: "lines 4, 9, 12 …"."""
    places = [each.removeprefix(f"{source}, ") for each in locations[:_LISTED]]
    kinds = {place.rpartition(" ")[0] for place in places}
    if len(places) > 1 and kinds in ({"line"}, {"row"}, {"example"}):
        kind = kinds.pop()
        places = [f"{kind}s {places[0].rpartition(' ')[2]}"] + [
            place.rpartition(" ")[2] for place in places[1:]
        ]
    return ", ".join(places) + " …" * (len(locations) > _LISTED)
