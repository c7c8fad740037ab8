"""The form of a state on TPUs: it trains to the same numbers, and what is stored is unchanged."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.device_form import DeviceForm
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import Steps
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store


def trained(
    config: RunConfig, store: Store, partitioner: Partitioner, form: bool
) -> tuple[TrainState, TrainState, list[float]]:
    """Return the state after three updates as it is stored and on the devices, and the losses."""
    steps = Steps.of(config)
    init = partial(init_state, config.model, steps.optimizer, config.seed)
    of_devices = DeviceForm(partitioner, jax.eval_shape(init), form)
    state = of_devices.on_device(partitioner.build(init))
    step = partitioner.train_step(steps).lower(
        of_devices.abstract(), partitioner.abstract_batch(PretrainingData(store, config).shapes(
            config.phases[0].length, config.phases[0].batch_size)[0])
    ).compile()  # fmt: skip
    losses = []
    for batch in PretrainingData(store, config).batches(0, 3):
        state, metrics = step(state, partitioner.shard_batch(batch.arrays))
        losses.append(float(metrics["loss"]))
    return of_devices.as_stored(state), state, losses


@pytest.mark.parametrize("attention", ["xla", "pallas"])
@pytest.mark.parametrize("shard_state", [False, True])
def test_it_trains_to_the_same_state(
    shard_state: bool, attention: str, config: RunConfig, store: Store
) -> None:
    config = replace(config, model=replace(config.model, attention=attention))
    partitioner = Partitioner(devices(), shard_state=shard_state)
    expected, _, losses = trained(config, store, partitioner, False)
    stored, state, others = trained(config, store, partitioner, True)
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    assert jax.tree.structure(stored) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(stored), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, atol=2e-6)
    # What was added is still what it was.
    size, params = config.model.vocab_size, state.params
    added = params["bert"]["embeddings"]["token"][size:]
    assert added.shape[0] == 2048 - size
    assert not np.any(added)
    assert np.all(np.asarray(params["mlm"]["bias"][size:]) == -1e9)
    assert params["bert"]["layers"]["attention"]["query"]["kernel"].ndim == 3


def test_there_and_back_is_bitwise(config: RunConfig) -> None:
    partitioner = Partitioner(devices()[:1])
    init: Any = partial(init_state, config.model, Steps.of(config).optimizer, config.seed)
    state = partitioner.build(init)
    values = jax.tree.map(np.array, state)
    form = DeviceForm(partitioner, jax.eval_shape(init), True)
    back = form.as_stored(form.on_device(state))
    assert jax.tree.all(jax.tree.map(np.array_equal, values, back))


def test_only_tpus_have_another_form(config: RunConfig) -> None:
    steps = Steps.of(config)
    init = partial(init_state, config.model, steps.optimizer, config.seed)
    assert not DeviceForm.of(Partitioner(devices()), steps, init).differs
