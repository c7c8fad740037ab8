"""RUN/launch: the files that the hosts of a run install and run, each with its hash.

bert_jax-….whl      this checkout
config.yaml         config of the run, resolved
host.json           settings of the hosts; see `host_info.Settings`
python.txt          Python version
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
_SOURCES = (
    *("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"),
    *("configs", "bert_jax", "pipelines", "tpu"),
)
# Without an isolated build environment, which would be downloaded.
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
_EPOCH = "1577836800"  # 2020-01-01 for every file of the wheel: same code, same hash


def bundle(config: SubmittedConfig, settings: Settings) -> dict[str, bytes]:
    """Return the files of a launch except launch.json, by name.

    Raises:
        BadInputError: The project was not installed from a checkout.
    """
    _check_checkout()
    files = {name: (_ROOT / "tpu/lock" / name).read_bytes() for name in LOCKS}
    files[CONFIG] = to_yaml(config.run).encode()
    files[SETTINGS] = settings.text().encode()
    files |= _wheel()
    sums = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return files | {SUMS: "".join(sums).encode()}


def digest(files: dict[str, bytes]) -> str:
    """Return the digest of all files of a bundle."""
    return hashlib.sha256(files[SUMS]).hexdigest()


def upload(files: dict[str, bytes], run: Path) -> None:
    """Write the files to the run folder; SHA256SUMS, which validates the others, comes last."""
    folder = run / RUN_LAUNCH
    with failures_explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder):
            folder.chmod(0o700)
        for name in sorted(files, key=lambda name: name == SUMS):
            (folder / name).write_bytes(files[name])


def _check_checkout() -> None:
    """Refuse an installed wheel, which has neither the lock files nor the files to build one."""
    sources = (*_SOURCES, *(f"tpu/lock/{name}" for name in LOCKS))
    missing = [name for name in sources if not (_ROOT / name).exists()]
    if missing:
        raise BadInputError(
            f"{_ROOT} has no {missing[0]}: a submission needs a checkout of the project, with its"
            " lock files; run pip install -e '.[cloud]' in one"
        )


def _wheel() -> dict[str, bytes]:
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
        for path in source.rglob("*"):  # independent of the checkout: same code, same hash
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
            raise UserError(f"building the wheel failed ({last}); pip install 'bert-jax[cloud]'")
        (wheel,) = out.glob("*.whl")
        return {wheel.name: wheel.read_bytes()}
