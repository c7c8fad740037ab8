"""Config files by name: ``tiny`` is configs/tiny.yaml of the checkout or of the installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def find_config(text: str, folder: Path = Path()) -> Path:
    """Return the path of a config file; a file of the user precedes a config with the same name.

    Args:
        text: A path, or a name from `named_configs`.
        folder: Start of relative paths.
    """
    path = folder / text
    named = named_configs().get(text)
    return path if named is None or path.is_file() else named


def named_configs() -> dict[str, Path]:
    """Return the files of configs/ by their paths in it without .yaml; setup.py packages them."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*.yaml"))
    }


def remedy(path: Path) -> str:
    """Return the end of a message that a config file is missing: the names that it may have."""
    names = named_configs()
    name = path.with_suffix("").as_posix().removeprefix("configs/")
    if name in names:
        return f"; did you mean --config {name}?"
    if path.suffix in (".yaml", ".yml"):
        return ""
    groups: dict[str, list[str]] = {}
    for folder, _, name in (name.rpartition("/") for name in names):
        groups.setdefault(folder, []).append(name)
    listed = [
        f"{folder}/{{{','.join(rest)}}}" if folder else ", ".join(rest)
        for folder, rest in groups.items()
    ]
    return f"; give a file, or one of {', '.join(listed)}"
