"""First values of the tokens that ``bert-jax extend-tokenizer`` added to a vocabulary.

``new_tokens: pieces``: each is the mean over its former pieces. ``new_tokens: corpus``: linear
functions of its contexts in the training text, as in "a la carte" embeddings (Khodak et al. 2018,
https://aclanthology.org/P18-1002), fitted to the known tokens: from the mean embedding of the
tokens near a token, and the logarithm of its count, to its trained embedding; and from the
logarithm alone to its output bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from bert_jax.nn.encoder import Params
from bert_jax.runtime.console import say
from bert_jax.training.partitioner import Partitioner
from pipelines.data.store.token_store import Store

if TYPE_CHECKING:
    from pipelines.data.store.cooccurrence import Counts

# Occurrences without which a token keeps the mean of its pieces, and does not count as known.
_MIN_COUNT = 10
_PENALTIES = np.logspace(-4, 3, 8)  # of the ridge regression; leave-one-out errors choose one
AddedTokens = Mapping[int, list[int]]  # new token -> former pieces
Stores = Mapping[str, tuple[float, Store]]  # name -> (fraction of the training rows, store)


class Rows(NamedTuple):
    """Values of N tokens: row [N, D] of the embedding and bias [N] of the MLM head, float32."""

    embedding: np.ndarray
    bias: np.ndarray


def mean_rows(table: Rows, added: AddedTokens) -> Rows:
    """Return the mean of each new token's pieces.

    Args:
        table: The values of all tokens, in the order of their ids.
        added: The N new tokens.
    """
    means = (np.stack([x[pieces].mean(axis=0) for pieces in added.values()]) for x in table)
    return Rows(*means)


def context_rows(table: Rows, added: AddedTokens, counts: Counts) -> Rows:
    """Return what the contexts of each new token predict, and the mean of its pieces if it is rare.

    Args:
        table: The values of all tokens, in the order of their ids.
        added: The N new tokens.
        counts: Of the training text.
    """
    # Here and below, because importing scikit-learn takes a second.
    from sklearn.linear_model import LinearRegression, RidgeCV

    new, rows = np.array(list(added)), mean_rows(table, added)
    V = len(counts.tokens)
    known = np.ones((V, 1), np.float32)  # only these are contexts
    known[new] = 0
    near = (counts.pairs + counts.pairs.T).tocsr()  # [V, V]
    contexts, total = near @ (known * table.embedding[:V]), near @ known  # [V, D], [V, 1]
    frequent = (counts.tokens >= _MIN_COUNT) & (total[:, 0] > 0)
    fitted, seen = np.flatnonzero(frequent * known[:, 0]), frequent[new]
    say(
        f"{seen.sum()} new tokens start from their contexts, compared with those of {len(fitted):,}"
        f" known tokens; {len(new) - seen.sum()} occur fewer than {_MIN_COUNT} times and start as"
        " the mean of their former pieces"
    )
    if not seen.any() or len(fitted) < 2:
        return rows

    def features(tokens: np.ndarray) -> np.ndarray:
        means, logarithms = contexts[tokens] / total[tokens], np.log(counts.tokens[tokens])
        return np.column_stack([means, logarithms])  # [tokens, D + 1]

    # Frequent tokens count more: their contexts and trained values have less noise.
    weights = counts.tokens[fitted] / counts.tokens[fitted].mean()
    x, tokens = features(fitted), features(new[seen])
    embedding = RidgeCV(_PENALTIES).fit(x, table.embedding[fitted], weights)
    bias = LinearRegression().fit(x[:, -1:], table.bias[fitted], weights)
    rows.embedding[seen], rows.bias[seen] = embedding.predict(tokens), bias.predict(tokens[:, -1:])
    return rows


def with_new_tokens(
    params: Params,
    added: AddedTokens,
    partitioner: Partitioner,
    stores: Stores | None,
    seed: int,
) -> Params:
    """Return the parameters with values for the new tokens, replicated.

    Every process computes them, so that none waits long for another, and uses those of process 0,
    because other machines may round differently.

    Args:
        params: Of the whole pre-training network.
        added: The new tokens.
        partitioner: The devices.
        stores: The training text, for values from contexts; None for the mean of the pieces.
        seed: Of the sample that is counted.
    """
    embeddings, mlm = params["bert"]["embeddings"], params["mlm"]
    table = Rows(np.asarray(embeddings["token"]), np.asarray(mlm["bias"]))
    if stores is None:
        rows = mean_rows(table, added)
        say(f"{len(added)} new tokens; each starts as the mean of its former pieces")
    else:
        from pipelines.data.store import cooccurrence

        rows = context_rows(table, added, cooccurrence.count(stores.values(), seed))
        rows = multihost_utils.broadcast_one_to_all(rows)

    def replaced(old: np.ndarray, new: np.ndarray) -> Array:
        whole = old.copy()
        whole[list(added)] = new
        return jax.device_put(whole, partitioner.replicated)

    token, bias = map(replaced, table, rows)
    bert = params["bert"] | {"embeddings": embeddings | {"token": token}}
    return params | {"bert": bert, "mlm": mlm | {"bias": bias}}
