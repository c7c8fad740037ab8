"""Splits of data sets on the Hugging Face hub.

    hf:ORG/NAME[/CONFIG][@REVISION]:SPLIT

The files of a split are those that the header of README.md names, or those whose names begin with
that of the split (``data/train-00000-of-00001.parquet``, ``CONFIG/train/0.parquet``). If there are
none that can be read, those of the branch ``refs/convert/parquet`` are, to which the hub converts
data sets.

Source: https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.hub.download import download
from pipelines.data.hub.repository import HUB, Listing, Repository, listing, repository
from pipelines.data.sources.locations import File

CONVERTED = "refs/convert/parquet"
_README = "README.md"
_FORM = f"{HUB}ORG/NAME[/CONFIG][@REVISION]:SPLIT"
_PART = r"[\w][\w.-]*"
_NAME = re.compile(
    rf"{HUB}/*(?P<name>{_PART}(/{_PART})?)(/(?P<config>[^/@:]+))?(@(?P<revision>[^@:]+))?"
    rf":(?P<split>{_PART})",
    re.ASCII,
)
# In this order: a repository may have its data in several formats.
_FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# Names that the hub counts as the same split.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?P<split>.*)-\d{5}-of-(?P<count>\d{5})")
_DEFAULT = "default"

Files = dict[str, list[str]]  # split -> names of its files


@dataclass(frozen=True)
class HubSplit:
    """The files of a split.

    Attributes:
        files: Their paths in the cache.
        features: Column -> description of its values, as in the header of README.md; empty if it
            describes none.
    """

    files: list[Path]
    features: dict[str, Any]


def hub_split(source: str) -> HubSplit:
    """Download the files of ``hf:ORG/NAME[/CONFIG][@REVISION]:SPLIT``, if the cache lacks them.

    Raises:
        BadInputError: There is no such data set, config or split, or no files that can be read.
        UnreachableError: The hub does not respond, and the files are not in the cache.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise BadInputError(f"{source} names no split of a data set; write it as {_FORM}")
    revision = f"@{match['revision']}" if match["revision"] else ""
    data_set = repository(f"{HUB}{match['name']}{revision}", "dataset")
    files = listing(data_set)
    header = _header(data_set, files)
    configs = _configs(header, files) or _by_names(files)
    if not configs and not data_set.revision:
        data_set = replace(data_set, revision=CONVERTED)
        say(f"{source}: no files that can be read on branch main; reading {CONVERTED}")
        files = listing(data_set)
        configs = _by_names(files)
    config = _choice(
        source, "config", match["config"] or "", configs, f"{HUB}ORG/NAME/CONFIG:SPLIT"
    )
    splits = configs[config]
    split = _choice(source, "split", _canonical(match["split"], splits), splits, _FORM)
    names = splits[split]
    _check_shards(source, names, files)
    folder = download(data_set, files, names)
    return HubSplit([folder / name for name in names], _features(header, config))


def _choice(source: str, kind: str, requested: str, available: Mapping[str, Any], form: str) -> str:
    """Return the requested config or split, or the only one.

    Raises:
        BadInputError: There is none, or there are several.
    """
    if requested in available:
        return requested
    if not requested and (len(available) == 1 or _DEFAULT in available):
        return _DEFAULT if _DEFAULT in available else next(iter(available))
    if not available:
        formats = ", ".join(_FORMATS)
        raise BadInputError(f"{source}: the data set has no files of these types: {formats}")
    listed = ", ".join(sorted(available)[:20])
    if requested:
        raise BadInputError(f"{source} has no {kind} {requested!r}; it has {listed}")
    raise BadInputError(f"{source} has several {kind}s: {listed}; choose one: {form}")


def _canonical(split: str, splits: Mapping[str, Any]) -> str:
    """Return the name of a split that means the same, such as validation for dev."""
    if split in splits:
        return split
    return next((name for name, others in _SPLITS.items() if split in others), split)


def _header(data_set: Repository, files: Listing) -> dict[str, Any]:
    """Return the YAML at the start of README.md; empty without one."""
    if _README not in files.files:
        return {}
    readme = download(data_set, files, [_README], announce=False) / _README
    match = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", readme.read_text("utf-8", "replace"), re.S)
    try:
        header = yaml.safe_load(match[1]) if match else {}
    except (yaml.YAMLError, RecursionError):
        say(f"{data_set}: the header of {_README} is not YAML; reading files by their names")
        header = {}
    return header if isinstance(header, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _configs(header: Mapping[str, Any], files: Listing) -> dict[str, Files]:
    """Return config -> split -> files that the header names."""
    configs: dict[str, Files] = {}
    for entry in _listed(header.get("configs")):
        if not isinstance(entry, dict):
            continue
        folder, named = str(entry.get("data_dir") or "").strip("./"), entry.get("data_files")
        inside = [name for name in files.files if not folder or name.startswith(f"{folder}/")]
        if named is None:
            splits = _splits(inside)
        else:
            splits = {}
            for split, patterns in _patterns(named):
                paths = [f"{folder}/{pattern}".lstrip("./") for pattern in patterns]
                if chosen := _of_one_format(_matching(inside, paths)):
                    splits[split] = [*splits.get(split, []), *chosen]
        if splits:
            name = str(entry.get("config_name", _DEFAULT))
            configs[_DEFAULT if entry.get("default") is True else name] = splits
            configs.setdefault(name, splits)
    return configs


def _patterns(named: Any) -> list[tuple[str, list[str]]]:
    """Return split and patterns of ``data_files``, which has one of four forms."""
    if isinstance(named, dict):
        return [(str(split), list(map(str, _listed(paths)))) for split, paths in named.items()]
    entries = [entry for entry in _listed(named) if isinstance(entry, dict)]
    if entries:
        return [
            (str(entry.get("split", "train")), list(map(str, _listed(entry.get("path")))))
            for entry in entries
        ]
    return [("train", list(map(str, _listed(named))))]


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match a pattern, where ** matches any folders, or are in a folder."""
    expressions = [re.compile(_expression(pattern)) for pattern in patterns]
    return [name for name in names if any(each.fullmatch(name) for each in expressions)]


def _expression(pattern: str) -> str:
    wildcards = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/?|\*|\?|\[[\w-]+\])", pattern.rstrip("/"))
    translated = (
        wildcards.get(part, part if part.startswith("[") and number % 2 else re.escape(part))
        for number, part in enumerate(parts)
    )
    return f"{''.join(translated)}(/.*)?"


def _by_names(files: Listing) -> dict[str, Files]:
    """Return config -> split -> files of a data set whose header names none."""
    by_folder: dict[str, list[str]] = {}
    for name in files.files:
        first, _, rest = name.partition("/")
        # CONFIG/train-….parquet; data/ and train/ are folders of a data set without configs.
        is_config = bool(rest) and first != "data" and not _split_of(first)
        by_folder.setdefault(first if is_config else _DEFAULT, []).append(name)
    named = {folder: _splits(names) for folder, names in by_folder.items()}
    return {folder: splits for folder, splits in named.items() if splits}


def _splits(names: Iterable[str]) -> Files:
    """Return split -> files, by their names."""
    by_split: Files = {}
    for name in names:
        if _format(name):
            parts = PurePosixPath(name).parts
            split = next(filter(None, map(_split_of, reversed(parts))), "")
            by_split.setdefault(split or _shards_of(parts[-1]), []).append(name)
    unnamed = by_split.pop("", [])
    # As on the hub, files without the name of a split are those of the training.
    splits = by_split or ({"train": unnamed} if unnamed else {})
    return {split: _of_one_format(names) for split, names in splits.items()}


def _split_of(part: str) -> str:
    """Return the split that a part of a path names; empty if it names none."""
    words = re.split(r"[^a-z]+", part.lower())
    for split, names in _SPLITS.items():
        if any(name in words for name in names):
            return split
    return ""


def _shards_of(name: str) -> str:
    match = _SHARD.match(name)
    return match["split"] if match else ""


def _format(name: str) -> str:
    path = PurePosixPath(name)
    suffix = File(name, 0).content_suffix
    is_hidden = any(part.startswith((".", "_")) for part in path.parts)
    is_data = path.name not in ("dataset_infos.json", "dataset_info.json", "state.json")
    return suffix if suffix in _FORMATS and is_data and not is_hidden else ""


def _of_one_format(names: Sequence[str]) -> list[str]:
    """Return the files of the first format that occurs."""
    kinds = [kind for kind in _FORMATS if any(_format(name) == kind for name in names)]
    return sorted(name for name in names if kinds and _format(name) == kinds[0])


def _check_shards(source: str, names: Sequence[str], files: Listing) -> None:
    """Refuse a part of the files of a split, as in a cache that has only some."""
    counts = {int(match["count"]) for name in names if (match := _SHARD.search(name))}
    if len(counts) == 1 and len(names) < (count := counts.pop()):
        where = "the data set has" if files.is_complete else "the cache has"
        raise BadInputError(
            f"{source}: {where} {len(names)} of {count} files ({names[0]}, …); download the others"
        )


def _features(header: Mapping[str, Any], config: str) -> dict[str, Any]:
    """Return the features of a config in the header, in the form of datasets."""
    infos = [info for info in _listed(header.get("dataset_info")) if isinstance(info, dict)]
    named = [info for info in infos if str(info.get("config_name", _DEFAULT)) == config]
    info = (named or infos)[0] if named or len(infos) == 1 else {}
    return _fields(info.get("features"))


def _fields(features: Any) -> dict[str, Any]:
    fields = [field for field in _listed(features) if isinstance(field, dict) and "name" in field]
    return {str(field["name"]): _feature(field) for field in fields}


def _feature(field: Mapping[str, Any]) -> Any:
    """Convert one feature of the header: dtype, sequence, list or struct."""
    for kind in ("sequence", "list"):
        if (inner := field.get(kind)) is not None:
            feature = _feature({"dtype": inner}) if not isinstance(inner, list) else _fields(inner)
            return {"feature": feature, "_type": "Sequence"}
    if isinstance(field.get("struct"), list):
        return _fields(field["struct"])
    dtype = field.get("dtype")
    names = dtype.get("class_label", {}).get("names") if isinstance(dtype, dict) else None
    if isinstance(names, dict):
        names = [str(names[key]) for key in sorted(names, key=_number)]
    if isinstance(names, list):
        return {"names": list(map(str, names)), "_type": "ClassLabel"}
    return {"dtype": str(dtype), "_type": "Value"}


def _number(key: Any) -> tuple[int, str]:
    """Return a key that sorts the texts of numbers as numbers."""
    return len(str(key)), str(key)
