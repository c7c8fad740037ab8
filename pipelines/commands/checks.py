"""The checks of ``bert-jax doctor``.

A check returns a `Result`, with a remedy for a warning. It raises a UserError, whose text includes
the remedy, if training is impossible, and a SkippedError if it does not apply to this system.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bert_jax.runtime.errors import BadInputError, UserError, one_line
from bert_jax.runtime.paths import CLOUD, absolute, at, failures_explained, is_remote, region_of

_GIB = 1 << 30
_MIN_DISK, _MIN_MEMORY, _MIN_FILES = 5 * _GIB, 2 * _GIB, 1024
_MAX_SKEW = 30.0  # seconds; Google refuses signatures with a clock error of minutes
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_PLUGINS = ("libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
# Extra -> names of its devices in /dev of Linux.
_HARDWARE = {"gpu": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}
_MEMORY = Path("/proc/meminfo")
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_TIMEOUT = 5.0  # seconds
# Multi-regions. The name of a dual region, such as nam4, does not include its continent.
_CONTINENTS = ("us", "eu", "asia")


class Result(NamedTuple):
    """The result of a check, and the remedy if there is a problem."""

    text: str
    remedy: str = ""


class SkippedError(Exception):
    """The check does not apply to this system."""


@dataclass(frozen=True)
class Line:
    """The report on one check."""

    name: str
    state: Literal["ok", "skipped", "warning", "failure"]
    found: str
    remedy: str = ""


def all_checks(run_dir: str) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Yield the checks by name; those whose failure causes others come first."""
    independent = (python, packages, devices, compiler, compile_cache, memory, cores, open_files)
    for check in independent:
        yield check.__name__.replace("_", " "), check
    storage = Storage(run_dir)
    yield "storage", storage.written
    yield "clock", storage.clock
    if run_dir.startswith(CLOUD):
        yield "region", partial(region, run_dir)


def examined(name: str, check: Callable[[], Result]) -> tuple[Line, UserError | None]:
    """Make a check; return the report on it, and its error if it failed."""
    try:
        with failures_explained():
            result = check()
    except SkippedError as error:
        return Line(name, "skipped", str(error)), None
    except UserError as error:
        return Line(name, "failure", str(error)), error
    except Exception as error:  # a broken installation can raise anything
        text = one_line(f"{type(error).__name__}: {error}")
        failure = BadInputError(f"{text}; reinstall bert-jax in a new environment")
        return Line(name, "failure", str(failure)), failure
    return Line(name, "warning" if result.remedy else "ok", *result), None


def python() -> Result:
    """Check the version of Python."""
    version = platform.python_version()
    try:
        needed = metadata.metadata("bert-jax")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return Result(version)
    if version not in SpecifierSet(needed, prereleases=True):
        raise BadInputError(
            f"{version} is too old: {needed} is needed; create an environment with it"
        )
    return Result(f"{version} ({platform.system()}, {platform.machine()})")


def packages() -> Result:
    """Check the versions of all dependencies against the lower bounds of setup.cfg."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _VERSIONS if _version(name))
    try:
        required = metadata.requires("bert-jax") or []
    except metadata.PackageNotFoundError:
        return Result(f"{versions}; bounds unknown", "bert-jax is not installed: pip install -e .")
    needs = [need for need in map(Requirement, required) if _applies(need)]
    outdated = {
        need: _version(need.name)
        for need in needs
        if not need.specifier.contains(_version(need.name) or "0", prereleases=True)
    }
    if outdated:
        problems = ", ".join(
            f"{need.name} {version} does not match {need.specifier}"
            if version
            else f"{need.name} is missing"
            for need, version in outdated.items()
        )
        names = " ".join(f"'{need.name}{need.specifier}'" for need in outdated)
        raise BadInputError(f"{problems}; fix with: pip install -U {names}")
    return Result(f"{versions}; all {len(needs)} packages are recent enough")


def _applies(need: Requirement) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": ""})


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def devices() -> Result:
    """List the devices that JAX uses; warn about an accelerator that it does not use."""
    from bert_jax.runtime import distributed

    accelerators = distributed.devices()
    kind = accelerators[0].device_kind
    text = f"{len(accelerators)} x {kind}"
    limit = (accelerators[0].memory_stats() or {}).get("bytes_limit")
    text += f", {limit / _GIB:.1f} GiB each" if limit else ""
    plugins = [f"{name} {_version(name)}" for name in _PLUGINS if _version(name)]
    text += f" ({', '.join(plugins)})" if plugins else ""
    if accelerators[0].platform != "cpu":
        return Result(text)
    if chosen := os.environ.get("JAX_PLATFORMS"):
        return Result(f"{text}, because of JAX_PLATFORMS={chosen}")
    for extra, names in _HARDWARE.items():
        if any(next(Path("/dev").glob(name), None) for name in names):
            remedy = f"a {extra.upper()} is not used; fix with: pip install 'bert-jax[{extra}]'"
            return Result(text, remedy)
    return Result(text)


def compiler() -> Result:
    """Compare a compiled matrix product with NumPy."""
    import jax
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, 128, 128), np.float32)
    started = time.monotonic()
    product = jax.jit(lambda x, y: jax.numpy.matmul(x, y, precision="highest"))(a, b)
    error = float(np.abs(np.asarray(product) - a @ b).max())
    if not error < 1e-3:
        raise UserError(
            f"a compiled matrix product has an error of {error:.2g}; reinstall jax and its driver"
        )
    return Result(f"a compiled matrix product is correct ({time.monotonic() - started:.1f} s)")


def compile_cache() -> Result:
    """Check that the folder of compiled programs can be written."""
    import jax

    from bert_jax.runtime import distributed

    distributed.enable_compilation_cache()
    config: Any = jax.config
    folder = str(config.jax_compilation_cache_dir)
    if "://" in folder:
        return Result(folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write_and_read(Path(folder))
    except (OSError, UserError) as error:
        remedy = "every start compiles again; set JAX_COMPILATION_CACHE_DIR to another folder"
        return Result(f"{folder}: {getattr(error, 'strerror', None) or error}", remedy)
    size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Result(f"{folder}, {size / (1 << 20):,.0f} MiB")


def memory() -> Result:
    """Check the free memory of the machine, or of the container that this runs in."""
    try:
        lines = [line.split() for line in _MEMORY.read_text("utf-8").splitlines()]
    except FileNotFoundError:
        raise SkippedError(f"{_MEMORY} does not exist; only Linux has it") from None
    sizes = {line[0]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
    total, free = sizes["MemTotal:"], sizes["MemAvailable:"]
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):  # not a container, or one without a limit
        limit, used = total, total - free
    total, free = min(total, limit), min(free, limit - used)
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    remedy = "stop other programs, or train a smaller model than bert-base"
    return Result(text, "" if free >= _MIN_MEMORY else remedy)


def cores() -> Result:
    """Count the cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        raise SkippedError("only Linux reports the cores of a process")
    count = len(os.sched_getaffinity(0))
    return Result(
        f"{count}",
        "" if count > 1 else "reading and training share it; use more cores",
    )


def open_files() -> Result:
    """Check how many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _MIN_FILES
    return Result(f"{soft:,}", "" if enough else f"fix with: ulimit -n {min(_MIN_FILES * 4, hard)}")


class Storage:
    """The folder for runs, probed once with a small file."""

    def __init__(self, run_dir: str) -> None:
        """Set the folder, which may not exist yet, or ``gs://…``."""
        self._run_dir = run_dir
        self._ahead: float | None = None  # seconds by which the clock of the storage is ahead

    def written(self) -> Result:
        """Check that runs can be written to the folder, and its free space."""
        requested = absolute(at(self._run_dir))
        folder = _nearest(requested)
        exists = folder == requested or is_remote(requested)
        name = f"{requested}" if exists else f"{requested} (will be created in {folder})"
        try:
            self._ahead = _write_and_read(folder)
        except OSError as error:
            raise BadInputError(
                f"{name}: {error.strerror or error}; choose another --run-dir, or fix this one"
            ) from None
        if is_remote(folder):
            return Result(f"{name}: written, read and deleted")
        free = shutil.disk_usage(folder).free
        text = f"{name}: written, read and deleted; {free / _GIB:,.1f} GiB free"
        remedy = "a checkpoint of bert-base takes 1.3 GiB; make room, or choose another --run-dir"
        return Result(text, "" if free >= _MIN_DISK else remedy)

    def clock(self) -> Result:
        """Compare the clock with that of the file system, the bucket or Google Cloud."""
        if on_google_cloud() and not self._run_dir.startswith(CLOUD):
            date, reference = _instance_metadata()[1], "Google Cloud"
            ahead = parsedate_to_datetime(date).timestamp() - time.time()
        elif self._ahead is None:
            raise SkippedError("no clock to compare with, because storage could not be written")
        else:
            ahead, reference = self._ahead, str(absolute(at(self._run_dir)))
        text = f"{abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} that of {reference}"
        remedy = "logins and heartbeats need it: enable time synchronization (timedatectl)"
        return Result(text, "" if abs(ahead) < _MAX_SKEW else remedy)


def _nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    while not is_remote(folder) and not folder.exists():
        folder = folder.parent
    return folder


def _write_and_read(folder: Path) -> float:
    """Write, read and delete a small file; return the seconds by which its clock is ahead.

    Raises:
        OSError: The file cannot be written, read or deleted.
        UserError: The content that is read differs.
    """
    file, content = folder / f".doctor-{uuid.uuid4().hex}", os.urandom(64)
    try:
        file.write_bytes(content)
        now = time.time()
        same = file.read_bytes() == content
        stat: Any = file.stat()
    finally:
        file.unlink(missing_ok=True)
    if not same:
        raise UserError(f"{folder}: a file reads differently than written; use another disk")
    return float(getattr(stat, "st_mtime", None) or stat.mtime) - now


def region(run_dir: str) -> Result:
    """Check that the bucket is in the region of this machine: other traffic is slow and costs."""
    location = region_of(at(run_dir))
    if not on_google_cloud():
        return Result(f"the bucket is in {location}, this machine is not on Google Cloud")
    zone = _instance_metadata()[0].rpartition("/")[2]
    text = f"the bucket is in {location}, this machine in {zone}"
    local = zone.rpartition("-")[0]
    if location in _CONTINENTS:
        is_elsewhere = zone[:2] != location[:2]
    else:
        is_elsewhere = "-" in location and location != local
    remedy = (
        "keep runs in a bucket of this region; create it with: gcloud storage buckets create"
        f" gs://NAME --location {local}"
    )
    return Result(text, remedy if is_elsewhere else "")


def on_google_cloud() -> bool:
    """Return whether this machine is one of Google Cloud; do not use the network."""
    if {"GCE_METADATA_IP", "GCE_METADATA_HOST"} & os.environ.keys():
        return True
    try:
        return "Google" in _PRODUCT.read_text("utf-8")
    except OSError:
        return False


def _instance_metadata() -> tuple[str, str]:
    """Return the zone of this machine and the time, from its metadata server."""
    hosts = (os.environ.get(f"GCE_METADATA_{name}") for name in ("IP", "HOST"))
    host = next(filter(None, hosts), "metadata.google.internal")
    address = f"http://{host}/computeMetadata/v1/instance/zone"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
            return response.read().decode(), response.headers["Date"]
    except OSError as error:
        raise UserError(f"{address} does not answer: {error}; check the firewall") from None
