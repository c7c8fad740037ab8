"""Make the goldens of google-research/bert: a tiny checkpoint, its outputs, and its optimizer.

    git clone https://github.com/google-research/bert
    pip install tensorflow-cpu
    python tests/golden/make_tf1.py bert

The committed files were made at commit eedf5716ce1268e56f0a50264a88cafad334ac61 of
google-research/bert, with tensorflow-cpu 2.21.0 and Python 3.11. `modeling.py`, `optimization.py`
and the output functions of `run_pretraining.py` run unchanged. This script replaces only functions
that TensorFlow 2 lacks: `tf.contrib.layers.layer_norm` and `tf.layers.dense`. There is no dropout,
and every variable has a random value, also biases. The script is reproducible to the byte.

    tf1/bert_model.ckpt.*, bert_config.json, vocab.txt   as a download of google-research/bert, but
                                                         with `global_step` and a few slots of Adam
    tf1/expected.npz                                     inputs, outputs, gradients
    tf1/types.ckpt.*                                     two shards, and types that BERT never uses
    optimizer.npz                                        50 updates
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tensorflow

tf = tensorflow.compat.v1
HERE = Path(__file__).parent
OUT = HERE / "tf1"
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 70,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", "?"),
    *("the", "in", "on", "and", "man", "store", "milk", "##ing", "##ed"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
]
# Variables whose slots and values are stored; all would be too large for the repository.
SLOTS = ("bert/embeddings/", "bert/pooler/", "cls/")
VALUES = (
    "bert/embeddings/word_embeddings",
    "bert/encoder/layer_1/attention/self/query/kernel",
    "bert/pooler/dense/bias",
    "bert/pooler/dense/bias/adam_m",
    "bert/pooler/dense/bias/adam_v",
    "cls/seq_relationship/output_weights",
    "global_step",
)
STEPS, WARMUP, LEARNING_RATE = 50, 10, 0.02


def layer_norm(inputs: Any, begin_norm_axis: int, begin_params_axis: int, scope: str | None) -> Any:
    """Compute `tf.contrib.layers.layer_norm` of TensorFlow 1.15 over the last axis."""
    assert begin_norm_axis == begin_params_axis == -1
    with tf.variable_scope(scope, default_name="LayerNorm"):
        shape = inputs.shape[-1:]
        beta = tf.get_variable("beta", shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", shape, initializer=tf.ones_initializer())
        mean, variance = tf.nn.moments(inputs, [-1], keep_dims=True)
        return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)


def dense(
    inputs: Any, units: int, activation: Any = None, name: str | None = None, **kwargs: Any
) -> Any:
    """Compute `tf.layers.dense` of TensorFlow 1.15 for matrices."""
    initializer = kwargs.pop("kernel_initializer")
    assert not kwargs
    with tf.variable_scope(name, default_name="dense"):
        kernel = tf.get_variable("kernel", [inputs.shape[-1], units], initializer=initializer)
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        outputs = tf.nn.bias_add(tf.matmul(inputs, kernel), bias)
        return outputs if activation is None else activation(outputs)


class TensorFlow1(ModuleType):
    """The ``tensorflow`` module that google-research/bert imports."""

    contrib = SimpleNamespace(layers=SimpleNamespace(layer_norm=layer_norm))
    layers = SimpleNamespace(dense=dense)

    def __getattr__(self, name: str) -> Any:
        return getattr(tf, name)


def original(clone: Path) -> tuple[Any, Any, Any]:
    """Import the modules `modeling`, `optimization` and `run_pretraining` of the clone."""
    real = sys.modules["tensorflow"]
    sys.path.insert(0, str(clone))
    sys.modules["tensorflow"] = TensorFlow1("tensorflow")
    names = ("modeling", "optimization", "run_pretraining")
    modules = [importlib.import_module(name) for name in names]
    sys.modules["tensorflow"] = real
    return modules[0], modules[1], modules[2]


def batch(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return three rows with 16, 11 and 6 tokens, and 4, 2 and 1 of 4 prediction slots used."""
    rows, length, slots = 3, 16, 4
    names = ("input_ids", "input_mask", "segment_ids")
    inputs = {name: np.zeros((rows, length), np.int32) for name in names}
    names = ("masked_lm_positions", "masked_lm_ids")
    inputs |= {name: np.zeros((rows, slots), np.int32) for name in names}
    inputs["masked_lm_weights"] = np.zeros((rows, slots), np.float32)
    inputs["next_sentence_labels"] = np.array([[0], [1], [1]], np.int32)
    for row, (used, first, picks) in enumerate([(16, 9, 4), (11, 5, 2), (6, 3, 1)]):
        ids = rng.integers(5, len(VOCABULARY), used)
        positions = np.sort(rng.choice(np.setdiff1d(np.arange(1, used - 1), first), picks, False))
        inputs["masked_lm_positions"][row, :picks] = positions
        inputs["masked_lm_ids"][row, :picks] = ids[positions]
        inputs["masked_lm_weights"][row, :picks] = 1
        ids[positions] = VOCABULARY.index("[MASK]")
        ids[0] = VOCABULARY.index("[CLS]")
        ids[[first, -1]] = VOCABULARY.index("[SEP]")
        inputs["input_ids"][row, :used] = ids
        inputs["input_mask"][row, :used] = 1
        inputs["segment_ids"][row, first + 1 : used] = 1
    return inputs


def assign(session: Any, variable: Any, rng: np.random.Generator) -> None:
    """Assign a random value to a variable, also where BERT initializes with zeros or ones."""
    value = 0.2 * rng.standard_normal(variable.shape.as_list())
    if variable.op.name.endswith("gamma"):
        value = 1 + value
    if variable.op.name.endswith("adam_v"):
        value = value**2
    variable.load(value.astype(np.float32), session)


def make_model(modeling: Any, run_pretraining: Any) -> None:
    """Write the checkpoint and its outputs."""
    rng = np.random.default_rng(1)
    (OUT / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", "utf-8")
    (OUT / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    inputs = batch(rng)
    with tf.Graph().as_default(), tf.Session() as session:
        fed = {name: tf.constant(value) for name, value in inputs.items()}
        config = modeling.BertConfig.from_json_file(str(OUT / "bert_config.json"))
        names = ("input_ids", "input_mask", "segment_ids")
        model = modeling.BertModel(config, False, *(fed[name] for name in names))
        names = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
        mlm_loss, mlm_losses, mlm_log_probs = run_pretraining.get_masked_lm_output(
            config,
            model.get_sequence_output(),
            model.get_embedding_table(),
            *(fed[name] for name in names),
        )
        nsp_loss, nsp_losses, nsp_log_probs = run_pretraining.get_next_sentence_output(
            config, model.get_pooled_output(), fed["next_sentence_labels"]
        )
        slots = inputs["masked_lm_ids"].shape
        outputs = {
            "embedding_output": model.get_embedding_output(),
            "encoder_layers": tf.stack(model.get_all_encoder_layers()),
            "pooled_output": model.get_pooled_output(),
            "mlm_log_probs": tf.reshape(mlm_log_probs, [*slots, config.vocab_size]),
            "mlm_losses": tf.reshape(mlm_losses, slots),
            "mlm_loss": mlm_loss,
            "nsp_log_probs": nsp_log_probs,
            "nsp_losses": nsp_losses,
            "nsp_loss": nsp_loss,
        }
        trained = tf.trainable_variables()
        gradients = tf.gradients(mlm_loss + nsp_loss, trained)
        for variable, gradient in zip(trained, gradients, strict=True):
            outputs[f"gradient/{variable.op.name}"] = tf.convert_to_tensor(gradient)
        step = tf.train.get_or_create_global_step()
        for variable in trained:
            if variable.op.name.startswith(SLOTS):
                for slot in ("adam_m", "adam_v"):
                    name = f"{variable.op.name}/{slot}"
                    tf.get_variable(name, variable.shape, trainable=False)
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            if variable is not step:
                assign(session, variable, rng)
        step.load(1_000_000, session)
        saver = tf.train.Saver()
        saver.save(session, str(OUT / "bert_model.ckpt"), write_meta_graph=False, write_state=False)
        saved = {v.op.name: value for v, value in _values(session, tf.global_variables())}
        stored = session.run(outputs)
    names = sorted(saved)
    stored |= {f"value/{name}": saved[name] for name in VALUES}
    stored |= {
        "names": np.array(names),
        "shapes": np.array([" ".join(map(str, saved[name].shape)) for name in names]),
        "sums": np.array([saved[name].sum(dtype=np.float64) for name in names]),
    }
    np.savez_compressed(OUT / "expected.npz", **inputs, **stored)


def _values(session: Any, variables: list[Any]) -> list[tuple[Any, np.ndarray]]:
    return list(zip(variables, session.run(variables), strict=True))


def make_types() -> None:
    """Write a checkpoint of two shards with every type that we read, and with others."""
    numbers = np.arange(6).reshape(2, 3)
    config = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        with tf.device("/cpu:0"):
            for dtype in (tf.float32, tf.float64, tf.bfloat16):
                tf.get_variable(dtype.name, initializer=tf.constant(numbers, dtype))
        with tf.device("/cpu:1"):
            for dtype in (tf.float16, tf.int32, tf.int64):
                tf.get_variable(dtype.name, initializer=tf.constant(numbers, dtype))
            tf.get_variable("string", initializer=tf.constant(["some", "text"]))
            tf.get_variable("empty", initializer=tf.zeros([0, 3]))
            tf.get_variable(
                "partitioned",
                [4, 3],
                initializer=tf.ones_initializer(),
                partitioner=tf.fixed_size_partitioner(2),
            )
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(sharded=True)
        saver.save(session, str(OUT / "types.ckpt"), write_meta_graph=False, write_state=False)


def make_optimizer(optimization: Any) -> None:
    """Write 50 updates; about every other gradient is clipped."""
    rng = np.random.default_rng(2)
    shapes = {
        "bert/embeddings/word_embeddings": (10, 4),
        "bert/encoder/layer_0/output/dense/kernel": (6, 4),
        "bert/encoder/layer_0/output/dense/bias": (4,),
        "bert/encoder/layer_0/output/LayerNorm/gamma": (4,),
    }
    scales = np.exp(rng.normal(-2, 1, STEPS))
    gradients = {
        name: (scales.reshape(-1, *[1] * len(shape)) * rng.standard_normal((STEPS, *shape)))
        for name, shape in shapes.items()
    }
    gradients = {name: value.astype(np.float32) for name, value in gradients.items()}
    rates: list[Any] = []
    adam = optimization.AdamWeightDecayOptimizer
    init = adam.__init__

    def recorded(self: Any, learning_rate: Any, **kwargs: Any) -> None:
        rates.append(learning_rate)
        init(self, learning_rate, **kwargs)

    adam.__init__ = recorded
    with tf.Graph().as_default(), tf.Session() as session:
        fed = {name: tf.placeholder(tf.float32, shape) for name, shape in shapes.items()}
        variables = {name: tf.get_variable(name, shape) for name, shape in shapes.items()}
        # The gradient of this sum is the fed value.
        loss = tf.add_n([tf.reduce_sum(variables[name] * fed[name]) for name in shapes])
        update = optimization.create_optimizer(loss, LEARNING_RATE, STEPS, WARMUP, use_tpu=False)
        session.run(tf.global_variables_initializer())
        for variable in variables.values():
            assign(session, variable, rng)
        initial = session.run(variables)
        history, used = [], []
        for step in range(STEPS):
            now = {fed[name]: gradients[name][step] for name in shapes}
            # `create_optimizer` does not order the increment of the step after the read by the
            # schedule; on a CPU the schedule often reads the next step. A fed step is in order.
            now["global_step/read:0"] = step
            used.append(session.run((update, rates[0]), now)[1])
            history.append(session.run(variables))
        slots = {v.op.name: value for v, value in _values(session, tf.global_variables())}
    steps = np.arange(STEPS)
    expected = LEARNING_RATE * np.where(steps < WARMUP, steps / WARMUP, 1 - steps / STEPS)
    np.testing.assert_allclose(used, expected, rtol=1e-5)
    stored = {"learning_rates": np.array(used, np.float32)}
    for name in shapes:
        stored[f"gradient/{name}"] = gradients[name]
        stored[f"initial/{name}"] = initial[name]
        stored[f"after/{name}"] = np.stack([values[name] for values in history])
        stored[f"final_m/{name}"] = slots[f"{name}/adam_m"]
        stored[f"final_v/{name}"] = slots[f"{name}/adam_v"]
    squares = [(value**2).sum(tuple(range(1, value.ndim))) for value in gradients.values()]
    stored["global_norms"] = np.sqrt(sum(squares))
    np.savez_compressed(HERE / "optimizer.npz", **stored)


def main(clone: Path) -> None:
    """Make everything."""
    tf.disable_v2_behavior()
    OUT.mkdir(exist_ok=True)
    modeling, optimization, run_pretraining = original(clone)
    make_model(modeling, run_pretraining)
    make_types()
    make_optimizer(optimization)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
