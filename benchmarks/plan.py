"""Measure time and memory to plan one epoch over a large corpus, from sentence lengths alone.

    python benchmarks/plan.py [--sentences 50000000]

The lengths are drawn with the averages of English Wikipedia: 30 tokens per sentence, 90 sentences
per document. The peak is measured before the packing of the same row. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import time
from types import SimpleNamespace

import numpy as np

from pipelines.data.batches.packing import max_per_row, pack
from pipelines.data.batches.pairs import plan


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=50_000_000)
    count = parser.parse_args().sentences
    rng = np.random.default_rng(0)
    lengths = np.maximum(1, rng.gamma(2.5, 12, count)).astype(np.uint16)
    cuts = np.unique(rng.integers(1, count, count // 90))
    split = SimpleNamespace(
        documents=len(cuts) + 1,
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        document_offsets=np.concatenate([[0], cuts, [count]]),
    )
    tokens = int(split.sentence_offsets[-1])
    print(f"{count:,} sentences, {split.documents:,} documents, {tokens:,} tokens\n")
    print("| length | objective | examples | seconds | packing seconds | fill | peak GiB |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for length in (512, 128):
        for objective in ("nsp", "mlm"):
            started = time.monotonic()
            pairs = plan(split, 0, 0, length, 0.1, objective)  # type: ignore[arg-type]
            planned = time.monotonic() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            started = time.monotonic()
            packing = pack(pairs.length, length, max_per_row(length))
            packed = time.monotonic() - started
            fill = pairs.length.sum() / (len(packing) * length)
            print(
                f"| {length} | {objective} | {len(pairs):,} | {planned:.1f} | {packed:.1f} |"
                f" {fill:.3f} | {peak:.2f} |"
            )


if __name__ == "__main__":
    main()
