"""Counter-based random numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipelines.data.batches import counter_rng


def test_bits_are_splitmix64() -> None:
    # The first outputs for seed 0 that the generator's authors publish.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    result = counter_rng.bits(np.uint64(0), np.arange(3, dtype=np.uint64))
    assert result.tolist() == expected


def test_keys_differ_in_every_part_and_broadcast() -> None:
    keys = {int(counter_rng.key(a, b, c)) for a in range(9) for b in range(9) for c in range(9)}
    assert len(keys) == 9**3
    rows = counter_rng.key(3, np.arange(5), 7)
    assert rows.tolist() == [int(counter_rng.key(3, row, 7)) for row in range(5)]


def test_uniform_numbers_are_uniform() -> None:
    draws = counter_rng.uniform(
        counter_rng.bits(counter_rng.key(1), np.arange(200_000, dtype=np.uint64))
    )
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.003)
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert abs(counts - 10_000).max() < 400


def test_tosses_have_the_binomial_distribution() -> None:
    trials = np.full(50_000, 130)
    heads = counter_rng.binomial_half(counter_rng.key(2, np.arange(50_000)), trials)
    assert heads.mean() == pytest.approx(65, abs=0.15)
    assert heads.var() == pytest.approx(32.5, rel=0.03)
    assert (
        counter_rng.binomial_half(counter_rng.key(2, np.arange(3)), np.zeros(3, np.int64)).tolist()
        == [0] * 3
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_permutation_meets_every_element_once(size: int) -> None:
    result = counter_rng.shuffled(counter_rng.key(5), size)
    assert sorted(result.tolist()) == list(range(size))


def test_permutations_of_different_keys_are_unrelated() -> None:
    first = Counter(int(counter_rng.shuffled(counter_rng.key(k), 10)[3]) for k in range(5000))
    assert set(first) == set(range(10))
    assert max(first.values()) < 1.25 * min(first.values())
