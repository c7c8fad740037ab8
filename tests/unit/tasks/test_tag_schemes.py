"""Schemes of tags: recognized as a whole, converted to BIO, reported."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import BILOU, IOBES

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tagging import entity_f1
from pipelines.tasks.tagging.schemes import are_brackets, from_brackets, recognize
from pipelines.tasks.tagging.task import Tagging
from support.tagged_text import DEFAULT, write_file

Output = pytest.CaptureFixture[str]


def tagged(folder: Path, tags: str, name: str = "data.conll") -> str:
    """Write words with these tags; | ends a sentence."""
    return write_file(
        folder, "".join(f"w\t{t}\n" if t != "|" else "\n" for t in tags.split()), name
    )


def read(file: str, task: Tagging | None = None) -> str:
    sentences = (task or Tagging()).read(file, DEFAULT, labeled=True)
    return " | ".join(" ".join(sentence.tags or ()) for sentence in sentences)


def expecting(classes: list[str]) -> Tagging:
    task = Tagging()
    task.expect_classes(classes)
    return task


@pytest.mark.parametrize(
    ("tags", "bio", "report"),
    [
        ("I-P I-P O I-L I-O", "B-P I-P O B-L B-O", ["are IO;", "3 I-", "as B-", "line 1"]),
        ("I-P B-P I-P O O", "B-P B-P I-P O O", ["are IOB1;", "1 I-", "as B-"]),
        ("B-P I-L O B-P O", "B-P B-L O B-P O", ["are BIO;", "1 I-", "line 2"]),
        ("I-P E-P E-P O", "B-P I-P B-P O", ["are BIOES;", "1 I-, 1 E- and 1 E-"]),  # IOE
        ("S-P O B-L I-L E-L", "B-P O B-L I-L I-L", ["are BIOES;", "1 S-", "1 E-"]),
        ("U-P U-P O B-L I-L L-L", "B-P B-P O B-L I-L I-L", ["are BILOU;", "2 U- and 1 L-"]),
        ("S-P S-P O B-L M-L E-L", "B-P B-P O B-L I-L I-L", ["are BMES;", "2 S-", "1 M-", "1 E-"]),
        ("W-P O B-L M-L E-L", "B-P O B-L I-L I-L", ["are BMEWO;", "1 W-"]),
        ("B_P I_P O B_L", "B-P I-P O B-L", ["are BIO;", "2 B_ and 1 I_ tags", "as B- and I-"]),
        ("B:P I:P O B:L", "B-P I-P O B-L", ["are BIO;", "2 B:"]),
        ("P-B P-I O L-B", "B-P I-P O B-L", ["are BIO;", "2 -B and 1 -I"]),
        ("P_B P_I O L_U P_B P_L", "B-P I-P O B-L B-P I-P", ["are BILOU;", "2 _B", "1 _U"]),
        ("b-per i-per o B-loc", "B-per I-per O B-loc", ["1 b-", "1 i-", "1 o"]),
        ("B I O B B", "B I O B B", []),
        ("I I O O I", "B I O O B", ["are IO;", "2 I tags are written as B"]),
        ("U O B I L", "B O B I I", ["are BILOU;", "1 U", "1 L"]),
        ("S O B E", "B O B I", ["are BIOES;", "1 S", "1 E"]),
        ("S B M E S", "B B I I B", ["are BMES;", "2 S"]),  # Chinese word segmentation: no O
        ("B-work_of_art I-work_of_art O B-a-b", "B-work_of_art I-work_of_art O B-a-b", []),
        ("(P* * * *) (L) *", "B-P I-P I-P I-P B-L O", ["brackets"]),
    ],
)
def test_entities_become_bio(
    tmp_path: Path, capsys: Output, tags: str, bio: str, report: list[str]
) -> None:
    assert read(tagged(tmp_path, tags)) == bio
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(report)
    for part in report:
        assert part in lines[0]


@pytest.mark.parametrize(
    "tags",
    [
        "B M S",  # parts of speech, or other classes, of one letter
        "B M S O",
        "n v a b i o m s u w",  # Peking University's
        "S A V S-PRO A-PRO ADV-PRO",  # Russian National Corpus
        "S S-PRO V",
        "NN IN NN-HL IN-TL VB-S",  # Brown
        "NOUN VERB ADJ X",
        "LABEL_0 LABEL_1 LABEL_2",
        "0 1 2",
        "O PER LOC",
        "PER LOC",
        "( ) * NN",  # brackets as words
        "S U O",
        "O",
    ],
)
def test_classes_of_words_are_not_misread(tmp_path: Path, capsys: Output, tags: str) -> None:
    assert recognize(tags.split()) is None
    assert read(tagged(tmp_path, tags)) == tags
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("tags", "location", "tag"),
    [
        ("B-P I-P O 0", "line 4", "'0'"),
        ("B-P I-P O LOC", "line 4", "'LOC'"),
        ("B-P I_P O", "line 2", "'I_P'"),
        ("O B-P P-I", "line 3", "'P-I'"),
        ("B-P L-P U-P E-P O", "line 4", "'E-P'"),
        ("B-P M-P I-P O", "line 2", "'M-P'"),
        ("B I O B-P", "line 1", "'B'"),
    ],
)
def test_mixed_schemes_are_refused(tmp_path: Path, tags: str, location: str, tag: str) -> None:
    with pytest.raises(BadInputError, match=f"{location}, 'w' .*{tag}") as caught:
        read(tagged(tmp_path, tags))
    assert "\n" not in str(caught.value)


def test_a_number_among_entities_needs_names(tmp_path: Path) -> None:
    task = expecting(["O", "B-P", "I-P"])
    with pytest.raises(BadInputError, match=r"line 1, 'w' has the tag '3'.*options\.tag_names"):
        read(tagged(tmp_path, "3 0"), task)


def test_one_decision_for_all_files(tmp_path: Path, capsys: Output) -> None:
    """A part of the tags of a data set would be understood otherwise."""
    task = Tagging()
    read(tagged(tmp_path, "U O B I L"), task)
    assert read(tagged(tmp_path, "U U | O"), task) == "B B | O"
    assert read(tagged(tmp_path, "S S O"), task) == "B B O"
    capsys.readouterr()
    assert read(tagged(tmp_path, "O O"), task) == "O O"
    assert "precision and recall are 0" in capsys.readouterr().err
    brackets = Tagging()
    read(tagged(tmp_path, "(P* *) *"), brackets)
    assert read(tagged(tmp_path, "* *"), brackets) == "O O"
    parts_of_speech = Tagging()
    read(tagged(tmp_path, "B M I V"), parts_of_speech)
    assert read(tagged(tmp_path, "I I"), parts_of_speech) == "I I"
    # The classes of a model are the decision for files that are scored.
    assert read(tagged(tmp_path, "U U"), expecting(["O", "B", "I"])) == "B B"
    assert read(tagged(tmp_path, "I I"), expecting(["B", "I", "M", "V"])) == "I I"
    with pytest.raises(BadInputError, match="line 1, 'w' has the tag 'NN'"):
        read(tagged(tmp_path, "NN VB"), expecting(["O", "B-P", "I-P"]))


def test_classes_are_bio_in_every_scheme(tmp_path: Path, capsys: Output) -> None:
    for tags, classes in {
        "U-P O": ["O", "B-P", "I-P"],
        "S-P O B-L M-L E-L": ["O", "B-L", "B-P", "I-L", "I-P"],
        "P_I O": ["O", "B-P", "I-P"],
        "B O": ["O", "B", "I"],
        "S B E M": ["O", "B", "I"],
        "10 9 0": ["0", "9", "10"],
    }.items():
        task = Tagging()
        assert task.classes(task.read(tagged(tmp_path, tags), DEFAULT, labeled=True)) == classes
    assert "3 words: 10 1, 9 1, 0 1" in capsys.readouterr().err


def test_brackets_of_several_sentences_and_types() -> None:
    assert are_brackets(["(PERSON*", "*)", "*", "(GPE)"])
    assert not are_brackets(["*", "NN"])
    assert not are_brackets(["(S(NP*", "*", "*))"])  # trees are nested
    assert from_brackets(["*", "(A*)", "(B*", "*)", "*"]) == ["O", "B-A", "B-B", "I-B", "O"]


@pytest.mark.parametrize(("letters", "scheme"), [("BIES", IOBES), ("BILU", BILOU)])
def test_scores_are_those_of_seqeval_in_strict_mode(letters: str, scheme: type) -> None:
    rng = random.Random(5)  # noqa: S311
    begin, inside, end, single = letters
    sides: list[list[list[str]]] = [[], []]
    for _ in range(60):
        entities = [(rng.choice("XYZ"), rng.randrange(4)) for _ in range(6)]
        for side in sides:
            tags: list[str] = []
            for label, size in entities:
                label = label if rng.random() < 0.8 else rng.choice("XYZ")
                body = [begin, *[inside] * (size - 2), end] if size > 1 else [single] * size
                tags += [f"{letter}-{label}" for letter in body] or ["O"]
            sides[side is sides[1]].append(tags)
    recognized = recognize(tag for side in sides for tags in side for tag in tags)
    assert recognized is not None
    ours = entity_f1.scores(*([*map(recognized.to_bio, side)] for side in sides), True)
    theirs = f1_score(*sides, mode="strict", scheme=scheme)
    assert 0.5 < theirs < 0.95
    assert ours["f1"] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "tags"),
    [
        ("O B-X I-X B-Y I-Y", "B-X B-X I-X I-X O B-Y I-Y"),
        ("O B-X I-X L-X U-X B-Y I-Y L-Y U-Y", "U-X B-X I-X L-X O B-Y L-Y"),
        ("O S-X B-X M-X E-X S-Y B-Y M-Y E-Y", "S-X B-X M-X E-X O B-Y E-Y"),
        ("O X_B X_I X_U X_L Y_B Y_I Y_L", "X_U X_B X_I X_L O Y_B Y_L"),
        ("O I-X I-Y", "I-X I-X I-X I-X O I-Y I-Y"),
        ("[PAD] O B-X I-X I-Y", "B-X B-X I-X I-X O I-Y I-Y"),
        ("[PAD] B-X I-X B-Y I-Y", "B-X B-X I-X I-X [PAD] B-Y I-Y"),
    ],
)
def test_labels_have_the_scheme_of_the_classes(classes: str, tags: str) -> None:
    """As if a tagger from elsewhere is trained further, with its head."""
    scheme = recognize(classes.split())
    assert scheme is not None
    bio = ["B-X", "B-X", "I-X", "I-X", "O", "B-Y", "I-Y"]
    assert scheme.from_bio(bio) == tags.split()
    if "B-Y" in classes or "Y_B" in classes:
        assert scheme.to_bio(tags.split()) == bio
    assert scheme.from_bio(["B-Z", "O"])[0] == ""
