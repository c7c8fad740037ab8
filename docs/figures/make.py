"""Draw the figures of README.md and docs/.

    python docs/figures/make.py                      from the numbers in this folder
    python docs/figures/make.py --run runs/tiny      updates these from a run and its store first

The figure of the ablations reads its table in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from svg import BLUE, FAINT, GREEN, GREY, GRID, INK, ORANGE, Axes, Drawing

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "RESULTS.md"
RUN, BATCH, PLATEAU = (HERE / name for name in ("run.jsonl", "batch.json", "plateau.json"))
_ENTROPY = 6.80  # nats, of the token frequencies of the store of these two runs
_LONGER = 3500  # step after which the sequences of this run are longer
_FILLS = {"[MASK]": "#fff1c2", "random": "#ffd8d3", "kept": "#d3f4da"}


def main() -> None:
    """Write every figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="run folder with new numbers")
    run_dir = parser.parse_args().run
    if run_dir:
        shutil.copy(run_dir / "metrics.jsonl", RUN)
        from collect import collect

        BATCH.write_text(json.dumps(collect(run_dir), indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, drawing in figures().items():
        (HERE / f"{name}.svg").write_text(drawing.content(), "utf-8")


def figures() -> dict[str, Drawing]:
    """Return all figures by name."""
    batch = json.loads(BATCH.read_text("utf-8"))
    return {
        "run": run(),
        "inputs": inputs(batch["tokens"]),
        "masking": masking(batch["counts"]),
        "attention": attention(batch["tokens"]),
        "ablations": ablations(),
        "plateau": plateau(),
    }


def plateau() -> Drawing:
    """Draw the training losses of two bert-mini runs; see "Initial values" in RESULTS.md."""
    losses = json.loads(PLATEAU.read_text("utf-8"))
    draw = Drawing(760, 270, "Loss of a run from random values and of one from counts")
    axes = Axes(draw, 50, 40, 690, 180, (0, 8), (4, 7.5))
    axes.frame("masked-token loss by millions of tokens", list(range(9)), [4, 5, 6, 7])
    axes.curve([(0, _ENTROPY), (8, _ENTROPY)], FAINT, dashes="3,3")
    colors = {"normal": ORANGE, "corpus": BLUE}
    for name, color in colors.items():
        axes.curve([(t / 1e6, min(max(x, 4), 7.5)) for t, x in losses[name] if t < 8e6], color, 2.4)
    for x, (name, color) in zip((50, 250), colors.items(), strict=True):
        draw.line([(x, 252), (x + 18, 252)], color, 2.4)
        draw.text(x + 24, 256, f"model.initialization: {name}", size=12, fill=FAINT)
    draw.text(450, 256, "dashed: entropy of the token frequencies", size=12, fill=FAINT)
    return draw


def run() -> Drawing:
    """Draw the loss and the held-out accuracies of a run."""
    lines = [json.loads(line) for line in RUN.read_text("utf-8").splitlines()]
    train = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "eval_mlm_loss" in line]
    last = max(line["step"] for line in lines)
    draw = Drawing(760, 270, f"Loss and accuracy of a run of {last:,} steps")
    ticks = [0, 1000, 2000, 3000, 4000]
    loss = Axes(draw, 50, 40, 310, 180, (0, last), (3.5, 7.5))
    loss.frame("masked-token loss, nats", ticks, [4, 5, 6, 7])
    accuracy = Axes(draw, 430, 40, 310, 180, (0, last), (0, 0.8))
    accuracy.frame("held-out accuracy", ticks, [0, 0.2, 0.4, 0.6, 0.8], ".0%")
    clipped = [(line["step"], min(max(line["mlm_loss"], 3.5), 7.5)) for line in train]
    for axes in (loss, accuracy):
        axes.curve([(_LONGER, axes.y[0]), (_LONGER, axes.y[1])], FAINT, dashes="3,3")
    loss.curve(clipped, GREY)
    loss.curve([(line["step"], line["eval_mlm_loss"]) for line in held_out], BLUE, 2.4)
    for key, color in (("eval_mlm_accuracy", BLUE), ("eval_nsp_accuracy", ORANGE)):
        accuracy.curve([(line["step"], line[key]) for line in held_out], color, 2.4)
    entries = (
        (50, GREY, "training batches"),
        (190, BLUE, "held-out text"),
        (430, BLUE, "masked tokens"),
        (570, ORANGE, "next sentence"),
    )
    for x, color, words in entries:
        draw.line([(x, 252), (x + 18, 252)], color, 2.4)
        draw.text(x + 24, 256, words, size=12, fill=FAINT)
    return draw


def inputs(tokens: list[dict[str, Any]]) -> Drawing:
    """Draw a training sequence: tokens, predicted tokens, token types and positions."""
    half = (len(tokens) + 1) // 2
    draw = Drawing(
        760, 300, "A training sequence with its token types, positions and predicted tokens"
    )
    for number, token in enumerate(tokens):
        row, column = divmod(number, half)
        x, y, width = 74 + column * 62, 20 + row * 140, 58
        fill = _FILLS.get(token["fate"], "#f6f8fa")
        draw.box(x, y, width, 28, fill, GRID)
        size = 11 if len(token["token"]) < 9 else 9
        draw.text(x + width / 2, y + 18, token["token"][:12], size=size, anchor="middle")
        if token["fate"]:
            words = token["original"][:12]
            draw.text(x + width / 2, y + 44, words, size=10, fill=ORANGE, anchor="middle")
        draw.box(x, y + 54, width, 22, "#ddf4ff" if token["token_type"] == 0 else "#fbefff")
        draw.text(x + width / 2, y + 69, "AB"[token["token_type"]], size=11, anchor="middle")
        draw.box(x, y + 80, width, 22, "#f6f8fa")
        draw.text(x + width / 2, y + 95, str(number), size=11, fill=FAINT, anchor="middle")
        if column == 0:
            for offset, name in (
                (18, "token"),
                (44, "predict"),
                (69, "token type"),
                (95, "position"),
            ):
                draw.text(66, y + offset, name, size=11, fill=FAINT, anchor="end")
    return draw


def masking(counts: dict[str, int]) -> Drawing:
    """Draw the fractions of predicted tokens and of their replacements."""
    predicted = sum(counts[key] for key in ("[MASK]", "random", "kept"))
    total = predicted + counts["not predicted"]
    draw = Drawing(760, 150, "Fractions of predicted tokens, and their replacements")
    bars = (
        ("all tokens", total, (("not predicted", "#d0d7de"), ("predicted", BLUE))),
        ("predicted", predicted, (("[MASK]", ORANGE), ("random", "#cf222e"), ("kept", GREEN))),
    )
    numbers = {**counts, "predicted": predicted}
    for row, (name, whole, parts) in enumerate(bars):
        x, y = 90.0, 18 + row * 66
        draw.text(82, y + 20, name, size=12, anchor="end")
        for part, color in parts:
            width = 650 * numbers[part] / whole
            draw.box(x, y, width, 30, color)
            words = f"{part} {numbers[part] / whole:.1%}"
            anchor, text_x = (
                ("end", x + width) if part in ("random", "kept") else ("middle", x + width / 2)
            )
            draw.text(text_x, y + 46, words, size=11, fill=INK, anchor=anchor)
            x += width
    return draw


def attention(tokens: list[dict[str, Any]]) -> Drawing:
    """Draw which tokens a token attends to, in both directions and from left to right."""
    words = [token["token"] for token in tokens[:9]]
    draw = Drawing(760, 330, "Which tokens each token attends to, in BERT and from left to right")
    for side, name in enumerate(("BERT: both directions", "left to right")):
        left, top, cell = 110 + side * 370, 90, 24
        draw.text(left, 24, name, size=13)
        for row, word in enumerate(words):
            draw.text(left - 6, top + row * cell + 16, word[:12], size=11, anchor="end")
            x, y = left + row * cell + 15, top - 6
            draw.parts.append(f'<g transform="rotate(-60 {x} {y})">')
            draw.text(x, y, word[:10], size=10, fill=FAINT)
            draw.parts.append("</g>")
            for column in range(len(words)):
                fill = BLUE if side == 0 or column <= row else "#f6f8fa"
                draw.box(left + column * cell, top + row * cell, cell - 2, cell - 2, fill)
    draw.text(
        110, 320, "rows: tokens; columns: the tokens that they attend to", size=11, fill=FAINT
    )
    return draw


def ablations() -> Drawing:
    """Draw held-out accuracy and perplexity of the ablations, from the table of RESULTS.md."""
    text = RESULTS.read_text("utf-8").partition("\n## Ablations\n")[2]
    row = re.compile(r"^\| (\w+) \| \w+ \| [\d,]+ \| (0\.\d+) \| [\d.]+ \| (\d+) \|", re.M)
    rows = [(name, float(acc), int(perplexity)) for name, acc, perplexity in row.findall(text)]
    draw = Drawing(760, 60 + 40 * len(rows), "Accuracy and perplexity of the ablations")
    draw.text(130, 30, "masked-token accuracy", size=13)
    draw.text(450, 30, "perplexity (lower is better)", size=13)
    highest = max(perplexity for _, _, perplexity in rows)
    for number, (name, acc, perplexity) in enumerate(rows):
        y = 44 + number * 40
        draw.text(120, y + 20, name, size=12, anchor="end")
        draw.box(130, y, 700 * acc, 28, BLUE)
        draw.text(136 + 700 * acc, y + 19, f"{acc:.1%}", size=11, fill=FAINT)
        draw.box(450, y, 240 * perplexity / highest, 28, ORANGE)
        draw.text(456 + 240 * perplexity / highest, y + 19, str(perplexity), size=11, fill=FAINT)
    return draw


if __name__ == "__main__":
    main()
