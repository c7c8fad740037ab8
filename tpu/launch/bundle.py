"""RUN/launch: what the machines of a run install and run, with the hash of every file.

bert_jax-….whl      this checkout
config.yaml         of the run, resolved
host.json           how hosts behave; see `place.Settings`
python.txt          version of Python
tools.txt           uv and setuptools, locked
requirements.txt    everything else, locked (make lock)
SHA256SUMS          of the files above
launch.json         the launch; see `request.Launch`
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import failures_explained, is_remote
from pipelines.folders import RUN_LAUNCH
from pipelines.settings import to_yaml
from tpu.config import SubmittedConfig
from tpu.host.host_info import CONFIG, SETTINGS, Settings

SUMS = "SHA256SUMS"
LOCKS = ("python.txt", "tools.txt", "requirements.txt")
_ROOT = Path(__file__).parents[2]
_SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "bert_jax", "pipelines", "tpu")
# Without a build environment of its own, which would be downloaded.
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
_EPOCH = "1577836800"  # 2020-01-01, the time of every file in the wheel: same code, same hash


def bundle(config: SubmittedConfig, settings: Settings) -> dict[str, bytes]:
    """The files of a launch but launch.json, by name.

    Raises:
        BadInputError: This is no checkout of the project.
    """
    files = {name: (Path(__file__).parents[1] / "lock" / name).read_bytes() for name in LOCKS}
    files[CONFIG] = to_yaml(config.run).encode()
    files[SETTINGS] = settings.text().encode()
    files |= _wheel()
    sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return files | {SUMS: "".join(sums).encode()}


def digest(files: dict[str, bytes]) -> str:
    """Of all files of a bundle."""
    return hashlib.sha256(files[SUMS]).hexdigest()


def upload(files: dict[str, bytes], run: Path) -> None:
    """Writes the files into the folder of the run; SHA256SUMS, which makes them count, last."""
    folder = run / RUN_LAUNCH
    with failures_explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder):
            folder.chmod(0o700)
        for name in sorted(files, key=lambda name: name == SUMS):
            (folder / name).write_bytes(files[name])


def _wheel() -> dict[str, bytes]:
    missing = [name for name in _SOURCES if not (_ROOT / name).exists()]
    if missing:
        raise BadInputError(
            f"{_ROOT} has no {missing[0]}: machines are sent a checkout of the project; clone it"
            " and pip install -e '.[cloud]' there"
        )
    with TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "source", Path(temporary) / "out"
        source.mkdir()
        out.mkdir()
        for name in _SOURCES:
            path = _ROOT / name
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(path, source / name, ignore=ignored)
            else:
                shutil.copy(path, source / name)
        for path in source.rglob("*"):  # whatever the checkout's are: same code, same hash
            path.chmod(0o755 if path.is_dir() else 0o644)
        built = subprocess.run(  # noqa: S603
            [sys.executable, "-W", "ignore", "-c", _BUILD, str(out)],
            cwd=source,
            env={"SOURCE_DATE_EPOCH": _EPOCH, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            last = (built.stderr.strip().splitlines() or ["?"])[-1]
            raise UserError(f"the wheel cannot be built ({last}); pip install 'bert-jax[cloud]'")
        (wheel,) = out.glob("*.whl")
        return {wheel.name: wheel.read_bytes()}
