"""Rules of the code base: imports, sizes of files and functions, safe parsers."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import subprocess
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from pipelines.settings import command_parser, read_config, run_config
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import open_task
from support.commands import ROOT

PACKAGES = ("bert_jax", "pipelines", "tpu")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TOKENIZERS = {
    "pipelines/data/tokenizers/tokenizer.py",
    "pipelines/data/tokenizers/export.py",
    "pipelines/data/tokenizers/vocabulary.py",
}
# Dependency -> the only files that may import it.
OWNERS = {
    "orbax": {"bert_jax/training/checkpoint.py", "bert_jax/training/orbax_repairs.py"},
    "fastapi": {"pipelines/serving/app.py"},
    "pydantic": {"pipelines/serving/messages.py"},
    "etils": {"bert_jax/runtime/paths.py"},
    "fsspec": {"bert_jax/runtime/paths.py", "pipelines/data/sources/remote.py"},
    "gcsfs": {"bert_jax/runtime/paths.py"},
    "sentencepiece": TOKENIZERS,
    "tokenizers": TOKENIZERS,
    "tensorboardX": {"bert_jax/runtime/trackers.py"},
    "wandb": {"bert_jax/runtime/trackers.py"},
    "shtab": {"pipelines/commands/completion.py"},
    "packaging": {"pipelines/commands/checks.py"},
    "matplotlib": {"pipelines/reports/figures.py"},
    "jinja2": {"pipelines/reports/page.py"},
    "google_crc32c": {"pipelines/masked_crc.py"},
    "ijson": {"pipelines/data/sources/json_array.py"},
    "mwparserfromhell": {"pipelines/data/sources/wikipedia.py"},
    "array_record": {"pipelines/data/sources/array_record.py"},
    "grain": {"pipelines/data/batches/loader.py"},
    "jsonargparse": {"pipelines/settings.py"},
    "seqeval": {f"pipelines/tasks/tagging/{name}.py" for name in ("bio_tags", "entity_f1")},
    "pyarrow": {
        "pipelines/models/formats/feature_files.py",
        "pipelines/data/sources/arrow.py",
        "pipelines/data/sources/parquet.py",
    },
    "huggingface_hub": {
        f"pipelines/data/hub/{name}.py" for name in ("repository", "download", "upload")
    },
    "rouge_score": {"pipelines/tasks/summarization/rouge.py"},
    "safetensors": {"pipelines/models/formats/hugging_face.py"},
    "scipy": {"pipelines/tasks/regression.py", "pipelines/data/store/cooccurrence.py"},
    "sklearn": {
        "pipelines/data/store/cooccurrence.py",
        "pipelines/tasks/multi_label/scores.py",
        "pipelines/tasks/tagging/entity_f1.py",
        "pipelines/tasks/classification.py",
        "pipelines/models/new_tokens.py",
    },
    "tensorflow_datasets": {
        f"pipelines/data/sources/{name}.py" for name in ("data_sets", "tf_examples")
    },
    "optax": {
        "bert_jax/training/optimizers.py",
        "bert_jax/training/state.py",
        "bert_jax/training/step.py",
    },
}


_BASE = (
    "bert_jax",
    *(
        f"pipelines.{n}"
        for n in ("folders", "help", "json_fields", "json_files", "masked_crc", "protobuf")
    ),
)
_BASE += ("pipelines.config_files", "pipelines.option_errors", "pipelines.settings")
# Package -> the packages and modules that it may import besides itself; the first that fits counts.
ALLOWED = {
    "bert_jax.runtime": (),
    "bert_jax.config": ("bert_jax.runtime",),
    "bert_jax.nn": ("bert_jax.config", "bert_jax.runtime"),
    "bert_jax.training": ("bert_jax.nn", "bert_jax.config", "bert_jax.runtime"),
    "pipelines.data": _BASE,
    "pipelines.tasks": (*_BASE, "pipelines.data"),
    "pipelines.models": (*_BASE, "pipelines.data", "pipelines.tasks"),
    "pipelines.reports": (*_BASE, "pipelines.data", "pipelines.tasks", "pipelines.models"),
    "pipelines.serving": (*_BASE, "pipelines.data", "pipelines.tasks", "pipelines.models"),
    "pipelines": ("bert_jax",),
    "tpu": (
        "bert_jax",
        *(
            f"pipelines.{name}"
            for name in ("data", "models", "settings", "option_errors", "folders", "help")
        ),
        "pipelines.pretraining",
    ),
}
# `bert_jax.load` imports the public API when it is called.
LAZY = ("bert_jax", "pipelines.models.api")
COMMANDS_PACKAGE = "pipelines.commands"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the dotted names in all imports: at the top, in functions and for type checking."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def libraries(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def import_edges() -> frozenset[tuple[str, str]]:
    """Return (importing module, imported module) for all modules of the product."""
    modules = {module_name(path) for path in SOURCES}
    edges = set()
    for path in SOURCES:
        for name in imports(path):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != module_name(path):
                edges.add((module_name(path), name))
    return frozenset(edges - {LAZY})


def inside(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def allowed(importer: str, imported: str) -> bool:
    if inside(imported, COMMANDS_PACKAGE):
        return inside(importer, COMMANDS_PACKAGE)
    if importer == "bert_jax":
        return False
    package = next(package for package in ALLOWED if inside(importer, package))
    return any(inside(imported, name) for name in (package, *ALLOWED[package]))


def test_packages_import_only_what_they_may() -> None:
    wrong = sorted(edge for edge in import_edges() if not allowed(*edge))
    assert not wrong, "\n".join(f"{importer} -> {imported}" for importer, imported in wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = set(import_edges())
    # Remove modules that import nothing that is left, until only cycles and their users remain.
    while leaves := {imported for _, imported in edges} - {importer for importer, _ in edges}:
        edges = {edge for edge in edges if edge[1] not in leaves}
    # Then those that nothing imports that is left.
    while roots := {importer for importer, _ in edges} - {imported for _, imported in edges}:
        edges = {edge for edge in edges if edge[0] not in roots}
    assert not edges, "\n".join(f"{importer} -> {imported}" for importer, imported in sorted(edges))


def test_a_library_is_imported_by_its_owners_alone() -> None:
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        wrong = {library for library in OWNERS if name not in OWNERS[library]} & libraries(path)
        assert not wrong, (name, wrong)
        assert path.name != "utils.py", name


def test_tests_share_code_through_support_alone() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        parts = {part for name in imports(path) for part in name.split(".")}
        assert not {part for part in parts if part.startswith(("test_", "conftest"))}, path


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_files_and_functions_are_short() -> None:
    long = []
    for name in tracked():
        if name.endswith(".py"):
            text = (ROOT / name).read_text("utf-8")
            long += [name] if len(text.splitlines()) > 400 else []
            for node in ast.walk(parsed(ROOT / name)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno
                    long += [f"{name}: {node.name}"] if lines >= 60 else []
    assert not long


@cache
def classes() -> dict[str, list[tuple[Path, ast.ClassDef]]]:
    """Return all classes of the product by name."""
    found: dict[str, list[tuple[Path, ast.ClassDef]]] = {}
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append((path, node))
    return found


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = (
        item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {function.name: function for function in functions}


def inherits_docstring(node: ast.ClassDef, name: str) -> bool:
    """Return True if a base class in the product documents the method `name`."""
    for base in node.bases:
        for _, parent in classes().get(ast.unparse(base).rpartition(".")[2], []):
            method = methods(parent).get(name)
            if (method and ast.get_docstring(method)) or inherits_docstring(parent, name):
                return True
    return False


def test_public_methods_are_documented_once() -> None:
    undocumented = [
        f"{path}: {node.name}.{name}"
        for path, node in chain.from_iterable(classes().values())
        if not node.name.startswith("_")
        for name, method in methods(node).items()
        if not (name.startswith("_") or ast.get_docstring(method))
        if not inherits_docstring(node, name)
    ]
    assert not undocumented


def test_the_training_loop_fits_on_a_few_screens() -> None:
    assert len((ROOT / "bert_jax/training/trainer.py").read_text("utf-8").splitlines()) <= 150


def test_only_the_partitioner_decides_how_programs_are_mapped() -> None:
    for path in SOURCES:
        text = path.read_text("utf-8")
        if path.name != "partitioner.py":
            assert "pmap(" not in text
            assert "NamedSharding(" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.name)
def test_a_config_shows_its_command_and_parses(path: Path) -> None:
    header = "".join(line for line in path.read_text("utf-8").splitlines(True) if line[0] == "#")
    command = re.search(r"bert-jax (pretrain|finetune \S+) (.*)", header)
    assert command, "the header comment names no command"
    assert f"--config {path.relative_to(ROOT)}" in command[2]
    assert "Hardware" in header
    assert "xpected" in header
    words = shlex.split(command[2].replace("configs/", f"{ROOT}/configs/"))
    if command[1] == "pretrain":
        assert run_config(words).steps > 0
        return
    open_task(command[1].split()[1])
    config, _ = read_config(command_parser("finetune", ""), words, FinetuneConfig)
    assert config.data.train
    assert config.data.validation


def test_messages_name_extras_that_can_be_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {*setup["options.extras_require"], "{extra}"}
    named = {
        extra: path
        for path in SOURCES
        for group in re.findall(r"bert-jax\[([^]]+)\]", path.read_text("utf-8"))
        for extra in group.split(",")
    }
    assert {"cloud", "wandb", "serve", "beam"} <= named.keys()
    assert named.keys() <= extras, named


def test_nothing_large_is_committed() -> None:
    for name in tracked():
        assert (ROOT / name).stat().st_size < 200_000 or name.startswith("tpu/lock/"), name


def test_no_file_can_run_a_program_or_write_elsewhere_by_being_read() -> None:
    unsafe = {"pickle", "marshal", "shelve", "joblib", "torch", "tarfile"}
    calls = ("yaml.load(", "unsafe_load", "full_load", "allow_pickle=True", "extractall")
    for path in SOURCES:
        text = path.read_text("utf-8")
        assert libraries(path).isdisjoint(unsafe), path
        assert not [call for call in calls if call in text], path
        assert text.count("np.load(") == text.count("allow_pickle=False"), path
