"""What a model can be asked, and its answers: the same as those of the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.nn.tensor_names import HEAD, MLM, NSP, parts
from bert_jax.runtime.errors import BadArgumentsError, UserError
from bert_jax.runtime.paths import absolute
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import parameter_count
from pipelines.models.fill_mask import answers, read_masked
from pipelines.data.tokenizers.tokenizer import SentencePieceTokenizer, Tokenizer
from pipelines.models.open import LoadedModel
from pipelines.serving import tasks
from pipelines.serving.batching import Batcher, Row
from pipelines.serving.programs import Programs
from pipelines.tasks import sequences
from pipelines.tasks.task import Record

MOST_MASKS = 16  # of a text
MOST_SEEN = 128  # tokens of an attention map: an answer has a number for each pair of them

_PATIENCE = 30.0  # seconds for the smallest answer, also where it has to be compiled

# Arrays of a row that have a value per token.
_PER_TOKEN = ("token_ids", "token_type_ids", "segment_ids")


class Answers:
    """A model that is ready to be asked, from any number of coroutines of one event loop.

    Attributes:
        task: Of a fine-tuned model.
        abilities: Names of what it can be asked, the likeliest question first.
        described: What the model is.
    """

    def __init__(self, model: LoadedModel, partitioner: Partitioner) -> None:
        """Of a model that `open_model` opened with `partitioner`.

        Raises:
            BadInputError: Its tokenizer is missing, or a part that its task needs.
        """
        self.tokenizer, self.network = model.tokenizer(), model.network
        # Without one, none of the methods that need it is offered.
        self.task: Any = None
        there = parts(model.weights.params)
        self.task = task = tasks.ServedTask.of(model, self.tokenizer) if HEAD in there else None
        network = task.network if task else None
        programs = Programs(model, self.tokenizer, partitioner, network)
        self.batcher = Batcher(programs.run, programs.kind)
        # A head that no objective trained has nothing to say.
        objective = model.run.data.objective if model.run else "nsp"
        paired = NSP in there and objective != "mlm"
        attention = ["attention"] if self.network.encoder != "lstm" else []
        self.abilities = [
            *(task.abilities if task else ()),
            *(["fill-mask"] if MLM in there else ()),
            *(["next-sentence"] if paired else ()),
            "similarity",
            *attention,
            "tokenize",
        ]
        self.described = _described(model, self.tokenizer) | {
            "objective": objective if paired else None,
            "abilities": self.abilities,
            "length": task.length if task else self.network.max_positions,
        }

    async def trouble(self) -> str:
        """Why nothing can be answered, as the smallest question shows; empty if it can."""
        ids = np.array([self.tokenizer.cls_id, self.tokenizer.sep_id], np.int32)
        row = {"token_ids": ids, "token_type_ids": np.zeros_like(ids)}
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.batcher.results("vector", [row])
        except TimeoutError:
            return f"the device has not answered for {_PATIENCE:g} seconds"
        except UserError as error:
            return str(error)
        except Exception as error:  # whatever it is; no text of others can be in it
            return f"{type(error).__name__}: {error}"
        return ""

    async def fill_mask(self, text: str, top_k: int) -> dict[str, Any]:
        """See `pipelines.models.fill_mask`.

        Raises:
            BadArgumentsError: There is no mask, there are too many, or the text is too long.
        """
        masked = read_masked(self.tokenizer, text, self.network.max_positions)
        if len(masked.positions) > MOST_MASKS:
            raise BadArgumentsError(
                f"the text has {len(masked.positions)} masks; at most {MOST_MASKS} are filled here"
            )
        arrays = sequences.rows([masked.ids[1:-1]], [[]], self.tokenizer, len(masked.ids))
        row = _row(arrays) | {"mlm_positions": np.array(masked.positions, np.int32)}
        ((shares, ids),) = await self.batcher.results("fill-mask", [row])
        count = len(masked.positions)
        return {
            "masks": answers(self.tokenizer, masked, ids[:count, :top_k], shares[:count, :top_k])
        }

    async def next_sentence(self, text: str, pair: str) -> dict[str, Any]:
        """How probable it is that `pair` follows `text`."""
        a, b = self.tokenizer.encode([text, pair])
        longest = self.network.max_positions
        row = _row(sequences.rows([a], [b], self.tokenizer, longest))
        (found,) = await self.batcher.results("next-sentence", [row])
        return {"follows": float(found[0]), "truncated": len(a) + len(b) + 3 > longest}

    async def similarity(self, texts: Sequence[str]) -> dict[str, Any]:
        """The cosines of the vectors that `bert_jax.load(MODEL).encode` gives."""
        room, tokenizer = self.network.max_positions - 2, self.tokenizer
        encoded = tokenizer.encode(texts)
        rows = []
        for ids in encoded:
            whole = np.array([tokenizer.cls_id, *ids[:room], tokenizer.sep_id], np.int32)
            rows.append({"token_ids": whole, "token_type_ids": np.zeros_like(whole)})
        vectors = np.stack(await self.batcher.results("vector", rows)).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
        cosines = np.clip(unit @ unit.T, -1.0, 1.0)
        return {"cosines": cosines.tolist(), "truncated": [len(ids) > room for ids in encoded]}

    async def attention(self, text: str, pair: str | None, layer: int) -> dict[str, Any]:
        """What the heads of a layer attend to; see `Bert.attention_probabilities`.

        Raises:
            BadArgumentsError: There is no such layer, or the texts are too long.
        """
        if not 1 <= layer <= self.network.layers:
            raise BadArgumentsError(
                f"layer {layer}: the model has the layers 1 to {self.network.layers}"
            )
        row = self._whole_row(text, pair, min(self.network.max_positions, MOST_SEEN))
        (found,) = await self.batcher.results("attention", [row])
        T = len(row["token_ids"])
        heads = np.round(found[layer - 1, :, :T, :T].astype(np.float64), 5)
        return {"tokens": self._pieces(row), "layer": layer, "heads": heads.tolist()}

    async def tokenize(self, text: str, pair: str | None) -> dict[str, Any]:
        """The tokens of a text or two; [MASK] is the mask.

        Raises:
            BadArgumentsError: There are more than the model takes.
        """
        longest = self.network.max_positions
        pieces = self._pieces(self._whole_row(text, pair, longest))
        unknown = sum(piece["unknown"] for piece in pieces)
        return {"tokens": pieces, "unknown": unknown, "longest": longest}

    async def about(self, examples: Sequence[Any]) -> dict[str, Any]:
        """What a fine-tuned model says of an example of its task."""
        (record,) = await self._records(examples)
        return record

    async def about_pairs(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The same of a text or pair, and whether it was cut."""
        record = await self.about(examples)
        return record | {"truncated": self.task.truncated(examples)}

    async def choose(self, text: str, choices: Sequence[str]) -> dict[str, Any]:
        """Which of the choices fits a text."""
        record = await self.about(tasks.choices_of(text, choices))
        pairs = [pair for choice in choices for pair in tasks.texts_of(text, choice)]
        return record | {"truncated": self.task.truncated(pairs)}

    async def rank(self, query: str, passages: Sequence[str]) -> dict[str, Any]:
        """The passages, those first that answer the query."""
        examples = tasks.passages_of(query, passages)
        records = await self._records(examples)
        return {
            "ranking": tasks.in_order(examples, records, self.task.classes),
            "truncated": self.task.truncated(examples),
        }

    async def summarize(self, text: str) -> dict[str, Any]:
        """The sentences that sum up a text."""
        examples = await asyncio.to_thread(tasks.document_of, text, self.task.language)
        return await self.about(examples) | {"document": examples[0].sentences}

    async def _records(self, examples: Sequence[Any]) -> list[Record]:
        features = await asyncio.to_thread(self.task.features, examples)
        found = await self.batcher.results("task", self.task.rows(features))
        return await asyncio.to_thread(self.task.answer, examples, features, found)

    def _whole_row(self, text: str, pair: str | None, longest: int) -> Row:
        a = self.tokenizer.encode_masked(text)
        b = self.tokenizer.encode_masked(pair) if pair else []
        needed = len(a) + len(b) + 2 + bool(b)
        if needed > longest:
            raise BadArgumentsError(f"this has {needed} tokens; at most {longest} are shown")
        return _row(sequences.rows([a], [b], self.tokenizer, longest))

    def _pieces(self, row: Row) -> list[dict[str, Any]]:
        tokenizer = self.tokenizer
        special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        return [
            {
                "piece": tokenizer.pieces[token],
                "id": token,
                "segment": segment,
                "position": position,
                "unknown": token == tokenizer.unk_id,
                "special": token in special,
            }
            for position, (token, segment) in enumerate(
                zip(row["token_ids"].tolist(), row["token_type_ids"].tolist(), strict=True)
            )
        ]


def _row(arrays: dict[str, np.ndarray]) -> Row:
    """The only row of some arrays, without padding."""
    count = int(arrays["segment_ids"][0].sum())
    return {name: arrays[name][0, :count] for name in _PER_TOKEN}


def _described(model: LoadedModel, tokenizer: Tokenizer) -> dict[str, Any]:
    config = model.network
    kind = "SentencePiece" if isinstance(tokenizer, SentencePieceTokenizer) else "WordPiece"
    tuned = model.finetune
    return {
        "name": absolute(model.folder).name,
        "architecture": model.weights.architecture or f"BERT for {tuned.task if tuned else '?'}",
        "step": model.step,
        "parameters": parameter_count(model.weights.params),
        "layers": config.layers,
        "heads": None if config.encoder == "lstm" else config.heads,
        "hidden_size": config.hidden_size,
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": kind,
        "labels": list(model.weights.labels),
    }
