"""Faults of tasks, of converted models, of reports and of the server."""

from __future__ import annotations

from tools.mutants.fault import Fault

FAULTS = [
    Fault(
        name="f1-on-word-pieces",
        file="pipelines/tasks/tagging/rows.py",
        old="is_first[offsets[:-1]] = True",
        new="is_first[:] = True",
        description="tags are learned and scored for pieces of words, not for words",
    ),
    Fault(
        name="adjacent-entities-merged",
        file="pipelines/tasks/tagging/bio_tags.py",
        old='bio[first] = tag_of("B", label)',
        new='bio[first] = tag_of("I", label)',
        description="two entities of one type side by side become one",
    ),
    Fault(
        name="answer-from-a-margin-of-a-window",
        file="pipelines/tasks/qa/decode.py",
        old="allowed = owned[each, starts]",
        new="allowed = inside[each, starts]",
        description="an answer is taken from a window with too little context",
    ),
    Fault(
        name="best-answer-overwritten",
        file="pipelines/tasks/qa/decode.py",
        old="if text and text not in answers:",
        new="if text:",
        description="the n best answers have the scores of their worst occurrences",
    ),
    Fault(
        name="predictions-in-wrong-order",
        file="pipelines/tasks/batches.py",
        old="chosen = np.arange(first, min(first + batch_size, count))",
        new="chosen = np.arange(first, min(first + batch_size, count))[::-1]",
        description="predictions are printed beside the wrong inputs",
        hint=("test_finetune", "test_pair_tasks"),
    ),
    Fault(
        name="pooling-includes-padding",
        file="pipelines/models/states.py",
        old="of_text = segment_ids[:, :, None] == numbers[None, None]",
        new="of_text = segment_ids[:, :, None] >= numbers[None, None]",
        description="the vector of a text depends on the other texts of its batch",
        hint=("test_features",),
    ),
    Fault(
        name="gelu-of-hugging-face",
        file="pipelines/models/formats/hugging_face.py",
        old='{"gelu": "erf",',
        new='{"gelu": "tanh",',
        description="models of Hugging Face give slightly different results",
    ),
    Fault(
        name="untied-decoder-accepted",
        file="pipelines/models/formats/hugging_face.py",
        old="not np.array_equal(tensors.pop(copy), tensors[of], equal_nan=True)",
        new="tensors.pop(copy) is None",
        description="a separate decoder is silently replaced by the embedding",
    ),
    Fault(
        name="report-not-escaped",
        file="pipelines/reports/page.py",
        old="autoescape=True",
        new="autoescape=False",
        description="text of a corpus runs as a script in the page of a report",
    ),
    Fault(
        name="server-open-to-the-network",
        file="pipelines/commands/serve.py",
        old='"--host", default="127.0.0.1"',
        new='"--host", default="0.0.0.0"',
        description="everybody on the network can use the model",
    ),
    Fault(
        name="host-header-not-checked",
        file="pipelines/serving/guards.py",
        old="if not self._hosts.allows(host):",
        new="if not host:",
        description="a web page of another site reaches the server on this computer",
    ),
    Fault(
        name="waiting-rows-not-limited",
        file="pipelines/serving/batching.py",
        old="if len(self._waiting) + len(rows) > self._max_waiting:",
        new="if len(rows) > self._max_waiting:",
        description="requests wait without end when there are too many",
    ),
    Fault(
        name="packed-targets-of-other-rows",
        file="bert_jax/nn/packed_rows.py",
        old="return {**batch, STARTS: starts // (parts * T) * T + starts % T}",
        new="return {**batch, STARTS: starts}",
        description="with train.accumulate, packed rows read the tokens of another part",
        hint=("test_task_packing",),
    ),
    Fault(
        name="packed-positions-of-the-whole-row",
        file="pipelines/tasks/packing.py",
        old='"position_ids": position}',
        new='"position_ids": target % T}',
        description="a text in a packed row has the positions of the whole row",
        hint=("test_task_packing",),
    ),
    Fault(
        name="mask-has-a-corpus-vector",
        file="bert_jax/nn/corpus_values.py",
        old="    random[mask_id] = 0\n",
        new="",
        description="[MASK] starts with a random vector instead of none",
        hint=("test_initial_values",),
    ),
]
