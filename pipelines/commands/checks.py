"""What ``bert-jax doctor`` looks at.

A check returns what it found, with a remedy if that is worth a warning. If nothing can be trained
like this, it raises a UserError whose text says both; a SkippedError if it cannot be made here.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
import urllib.request
import uuid
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import CLOUD, absolute, at, is_remote, region_of

_GIB = 1 << 30
_LEAST_DISK, _LEAST_MEMORY, _LEAST_FILES = 5 * _GIB, 2 * _GIB, 1024
_LARGEST_SKEW = 30.0  # seconds; Google refuses signatures that are minutes off
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_PLUGINS = ("libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
# Extra -> what Linux calls its devices.
_HARDWARE = {"gpu": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}
_MEMORY = Path("/proc/meminfo")
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_TIMEOUT = 5.0  # seconds
_CONTINENTS = ("us", "eu", "asia")  # multi-regions; of a dual region, such as nam4, it is not said


class Found(NamedTuple):
    """What a check found, and what to do about it if anything."""

    text: str
    remedy: str = ""


class SkippedError(Exception):
    """Why a check cannot be made."""


def python() -> Found:
    """The version of Python."""
    version = platform.python_version()
    try:
        needed = metadata.metadata("bert-jax")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return Found(version)
    if version not in SpecifierSet(needed, prereleases=True):
        raise BadInputError(f"{version} is here, {needed} is needed; make an environment with that")
    return Found(f"{version} ({platform.system()}, {platform.machine()})")


def packages() -> Found:
    """The versions of what is needed, against the lower bounds of setup.cfg."""
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN if _version(name))
    try:
        required = metadata.requires("bert-jax") or []
    except metadata.PackageNotFoundError:
        return Found(f"{shown}; bounds unknown", "bert-jax is not installed: pip install -e .")
    needs = [need for need in map(Requirement, required) if _applies(need)]
    wrong = {
        need: _version(need.name)
        for need in needs
        if not need.specifier.contains(_version(need.name) or "0", prereleases=True)
    }
    if wrong:
        said = ", ".join(f"{need.name} {version or 'is absent'}" for need, version in wrong.items())
        names = " ".join(f"'{need.name}{need.specifier}'" for need in wrong)
        raise BadInputError(f"{said}; mend with: pip install -U {names}")
    return Found(f"{shown}; {len(needs)} packages are new enough")


def _applies(need: Requirement) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": ""})


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def devices() -> Found:
    """What JAX computes on, and whether it leaves an accelerator unused."""
    from bert_jax.runtime import distributed

    found = distributed.devices()
    kind = found[0].device_kind
    text = f"{len(found)} x {kind}"
    limit = (found[0].memory_stats() or {}).get("bytes_limit")
    text += f", {limit / _GIB:.1f} GiB each" if limit else ""
    plugins = [f"{name} {_version(name)}" for name in _PLUGINS if _version(name)]
    text += f" ({', '.join(plugins)})" if plugins else ""
    if found[0].platform != "cpu":
        return Found(text)
    if chosen := os.environ.get("JAX_PLATFORMS"):
        return Found(f"{text}, as JAX_PLATFORMS={chosen} says")
    for extra, names in _HARDWARE.items():
        if any(next(Path("/dev").glob(name), None) for name in names):
            remedy = f"a {extra.upper()} is there and not used: pip install 'bert-jax[{extra}]'"
            return Found(text, remedy)
    return Found(text)


def compiler() -> Found:
    """Whether a compiled product is right."""
    import jax
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, 128, 128), np.float32)
    started = time.monotonic()
    product = jax.jit(lambda x, y: jax.numpy.matmul(x, y, precision="highest"))(a, b)
    off = float(np.abs(np.asarray(product) - a @ b).max())
    if not off < 1e-3:
        raise UserError(f"a compiled product is off by {off:.2g}; install jax and its driver anew")
    return Found(f"a compiled product agrees with NumPy ({time.monotonic() - started:.1f} s)")


def compile_cache() -> Found:
    """Where compiled programs are kept."""
    import jax

    from bert_jax.runtime import distributed

    distributed.enable_compilation_cache()
    config: Any = jax.config
    folder = str(config.jax_compilation_cache_dir)
    if "://" in folder:
        return Found(folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write_and_read(Path(folder))
    except (OSError, UserError) as error:
        remedy = "every start compiles anew; set JAX_COMPILATION_CACHE_DIR to another folder"
        return Found(f"{folder}: {getattr(error, 'strerror', None) or error}", remedy)
    size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Found(f"{folder}, {size / (1 << 20):,.0f} MiB")


def memory() -> Found:
    """Of the machine, or of the container that this runs in."""
    try:
        lines = [line.split() for line in _MEMORY.read_text("utf-8").splitlines()]
    except FileNotFoundError:
        raise SkippedError(f"there is no {_MEMORY}, as Linux has it") from None
    sizes = {line[0]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
    total, free = sizes["MemTotal:"], sizes["MemAvailable:"]
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):  # no container, or one without a limit
        limit, used = total, total - free
    total, free = min(total, limit), min(free, limit - used)
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    remedy = "end other programs, or train a smaller model than bert-base"
    return Found(text, "" if free >= _LEAST_MEMORY else remedy)


def cores() -> Found:
    """Those that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        raise SkippedError("the system does not tell, as Linux does")
    count = len(os.sched_getaffinity(0))
    return Found(f"{count}", "" if count > 1 else "text and batches wait for each other; use more")


def open_files() -> Found:
    """How many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES
    return Found(f"{soft:,}", "" if enough else f"ulimit -n {min(_LEAST_FILES * 4, hard)}")


class Storage:
    """The folder where runs shall be, probed once with a small file."""

    def __init__(self, run_dir: str) -> None:
        """Of a folder, which need not be there yet, or ``gs://…``."""
        self._run_dir = run_dir
        self._ahead: float | None = None

    def written(self) -> Found:
        """Whether runs can be written there, and how much room there is."""
        asked = absolute(at(self._run_dir))
        folder = _nearest(asked)
        there = folder == asked or is_remote(asked)
        name = f"{asked}" if there else f"{asked} (to be made in {folder})"
        try:
            self._ahead = _write_and_read(folder)
        except OSError as error:
            raise BadInputError(
                f"{name}: {error.strerror or error}; choose another --run-dir, or mend this one"
            ) from None
        if is_remote(folder):
            return Found(f"{name}: written, read and deleted")
        free = shutil.disk_usage(folder).free
        text = f"{name}: written, read and deleted; {free / _GIB:,.1f} GiB free"
        remedy = "a checkpoint of bert-base takes 1.3 GiB; make room, or choose another --run-dir"
        return Found(text, "" if free >= _LEAST_DISK else remedy)

    def clock(self) -> Found:
        """Our clock against that of the file system, the bucket or Google Cloud."""
        if on_google_cloud() and not self._run_dir.startswith(CLOUD):
            ahead, of = parsedate_to_datetime(_ask()[1]).timestamp() - time.time(), "Google Cloud"
        elif self._ahead is None:
            raise SkippedError("there is no other to compare it with, as storage was not written")
        else:
            ahead, of = self._ahead, str(absolute(at(self._run_dir)))
        text = f"{abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} that of {of}"
        remedy = "logins and heartbeats rely on it: switch on time synchronisation (timedatectl)"
        return Found(text, "" if abs(ahead) < _LARGEST_SKEW else remedy)


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    while not is_remote(folder) and not folder.exists():
        folder = folder.parent
    return folder


def _write_and_read(folder: Path) -> float:
    """Writes, reads and deletes a small file; by how many seconds its clock is ahead of ours.

    Raises:
        OSError: It cannot be done.
        UserError: Something else is read than was written.
    """
    file, content = folder / f".doctor-{uuid.uuid4().hex}", os.urandom(64)
    try:
        file.write_bytes(content)
        now = time.time()
        same = file.read_bytes() == content
        about: Any = file.stat()
    finally:
        file.unlink(missing_ok=True)
    if not same:
        raise UserError(f"{folder}: what was written is not what is read; use another disk")
    return float(getattr(about, "st_mtime", None) or about.mtime) - now


def region(run_dir: str) -> Found:
    """Whether the bucket is where this machine is: data that leaves a region is slow and costs."""
    where = region_of(at(run_dir))
    if not on_google_cloud():
        return Found(f"the bucket is in {where}, this machine not on Google Cloud")
    zone = _ask()[0].rpartition("/")[2]
    text = f"the bucket is in {where}, this machine in {zone}"
    wanted = zone.rpartition("-")[0]
    apart = zone[:2] != where[:2] if where in _CONTINENTS else "-" in where and where != wanted
    remedy = f"gcloud storage buckets create gs://NAME --location {wanted}, and keep runs there"
    return Found(text, remedy if apart else "")


def on_google_cloud() -> bool:
    """Whether this is one of its machines, without asking the network."""
    if {"GCE_METADATA_IP", "GCE_METADATA_HOST"} & os.environ.keys():
        return True
    try:
        return "Google" in _PRODUCT.read_text("utf-8")
    except OSError:
        return False


def _ask() -> tuple[str, str]:
    """The zone of this machine and the time, from its metadata server."""
    known = (os.environ.get(f"GCE_METADATA_{name}") for name in ("IP", "HOST"))
    host = next(filter(None, known), "metadata.google.internal")
    address = f"http://{host}/computeMetadata/v1/instance/zone"
    asked = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT) as answer:  # noqa: S310
            return answer.read().decode(), answer.headers["Date"]
    except OSError as error:
        raise UserError(f"{address} does not answer: {error}; is there a firewall?") from None
