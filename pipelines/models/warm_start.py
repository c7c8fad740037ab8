"""``--init MODEL``: start a run at step 0 with the weights of another model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bert_jax.config.run import RunConfig
from bert_jax.nn.tensor_names import HEAD, MLM, parts
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import at
from bert_jax.training.metadata import Meta
from bert_jax.training.optimizers import optimizer
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, new_state
from pipelines.data.tokenizers.tokenizer import Tokenizer, WordPieceTokenizer
from pipelines.models.new_tokens import Stores, with_new_tokens
from pipelines.models.open import LoadedModel, network_of, open_model

# From a function that returns the training text.
ModelStart = Callable[[Callable[[], Stores]], TrainState]


def start_from(
    config: RunConfig, tokenizer: Tokenizer, partitioner: Partitioner, newest: Meta | None
) -> tuple[RunConfig, ModelStart | None]:
    """Return the run with the network of ``init``, and a function of its text for its first state.

    A run that has a checkpoint resumes from it; its ``init`` is not opened again.

    Args:
        config: Of the run.
        tokenizer: Of the store.
        partitioner: The devices.
        newest: Metadata of the newest checkpoint of the run; None without one.

    Raises:
        BadInputError: The model cannot be opened, or config or store need another network.
    """
    if newest is not None:
        run_dir = at(config.run_dir)
        if not newest.config.get("init"):
            raise BadInputError(
                f"{run_dir} was started without --init; leave it out to resume, or choose another"
                " run_dir"
            )
        return replace(config, model=config.model.started_from(network_of(newest, run_dir))), None
    model = open_model(config.init, partitioner)
    model.weights.require_usable(MLM)
    network = model.network
    config = replace(config, model=config.model.started_from(network))
    say(
        f"network of {model.path}: {network.layers} layers, hidden size {network.hidden_size},"
        f" {network.heads} heads, {network.max_positions} positions, GELU {network.gelu},"
        f" encoder {network.encoder}"
    )
    added = _added_tokens(model, tokenizer)
    if config.new_tokens == "corpus" and not added:
        raise BadInputError(
            f"new_tokens corpus has no effect: the store has the vocabulary of {model.path}; remove"
            " new_tokens, or prepare the text with a tokenizer of bert-jax extend-tokenizer"
        )
    return config, partial(_first_state, config, model, added)


def _first_state(
    config: RunConfig, model: LoadedModel, added: dict[int, list[int]], stores: Callable[[], Stores]
) -> TrainState:
    say(f"weights from {model.described}; the run starts at step 0")
    if HEAD in parts(model.weights.params):
        say(f"the task head of {model.path} is not used")
    lacking = {"pooler", "mlm", "nsp"} - parts(model.weights.params)
    if lacking:
        say(f"new weights for missing parts: {', '.join(sorted(lacking))}")
    params = model.initialized_params(config.model, config.seed)
    if added:
        text = stores() if config.new_tokens == "corpus" else None
        params = with_new_tokens(params, added, model.partitioner, text, config.seed)
    rule = optimizer(config.optimizer, config.phases)
    return model.partitioner.build(partial(new_state, rule), params)


def _added_tokens(model: LoadedModel, tokenizer: Tokenizer) -> dict[int, list[int]]:
    """Return the tokens of the store in [unused] slots of the model: id -> former pieces.

    Raises:
        BadInputError: The vocabularies differ in another way.
    """
    trained = model.tokenizer()
    if trained.digest == tokenizer.digest:
        return {}
    mismatch = BadInputError(
        f"the store was made with another tokenizer ({tokenizer.digest[:12]}) than {model.path}"
        f" ({trained.digest[:12]}); prepare the text with --tokenizer {model.path}, or with one"
        " that bert-jax extend-tokenizer made from it"
    )
    if not isinstance(trained, WordPieceTokenizer) or not isinstance(tokenizer, WordPieceTokenizer):
        raise mismatch
    if trained.config() != tokenizer.config() or trained.vocab_size != tokenizer.vocab_size:
        raise mismatch
    pairs = enumerate(zip(trained.pieces, tokenizer.pieces, strict=True))
    changed = {number: new for number, (old, new) in pairs if old != new}
    if not all(re.fullmatch(r"\[unused\d+\]", trained.pieces[number]) for number in changed):
        raise mismatch
    return dict(zip(changed, trained.encode(list(changed.values())), strict=True))
