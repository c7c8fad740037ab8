"""A process that runs a reader and records forbidden actions."""

from __future__ import annotations

import multiprocessing
import os
import resource
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from bert_jax.runtime.entry_point import os_error_line
from bert_jax.runtime.errors import UserError
from tools.drill.mutations import Change, copy_files
from tools.drill.report import is_readable

MEMORY = 1 << 30  # bytes of address space beyond what reading the valid files took
START = 120.0  # seconds to import everything and to read the valid files

# Imported once, by the server that all processes are forked from.
PRELOAD = [
    "pipelines.models.features",
    "pipelines.models.model_card",
    "pipelines.data.store.prepare",
    "pipelines.reports.page",
    "tpu.host.supervise",
    "tpu.launch.status",
]
PRELOAD += ["pipelines.tasks.registry", "pipelines.data.tokenizers.export"]
_PROGRAMS = ("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "pty.")
_FOREIGN = ("pickle.", "ctypes.dlopen")
_CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _nothing(folder: Path, rng: Random) -> None:
    pass


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        name: Name in the table.
        make: Writes valid files into a folder.
        read: Reads them, as the commands do.
        patterns: Glob patterns of the files to damage.
        special: Changes for this format; they raise ValueError for files of another format.
        refusal: Message about the valid files, if they are refused.
        repair: Called after a change, to correct checksums.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    patterns: tuple[str, ...]
    special: tuple[Change, ...] = ()
    refusal: str = ""
    repair: Callable[[Path, Random], object] = _nothing

    def files(self, folder: Path) -> list[Path]:
        """Return the files to damage; a file that matches two patterns is listed twice."""
        paths = [path for pattern in self.patterns for path in sorted(folder.glob(pattern))]
        return [path for path in paths if path.is_file()]


@dataclass(frozen=True)
class Outcome:
    """Outcome of one try.

    Attributes:
        refusal: Message of the reader; empty if it succeeded.
        faults: Forbidden actions and other failures.
    """

    refusal: str
    faults: tuple[str, ...]


class ReaderProcess:
    """The process in which a reader runs; it is restarted after it ended."""

    def __init__(self, reader: Reader, folder: Path, limit: float) -> None:
        self._reader, self._folder, self._limit = reader, folder, limit
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._process: Any = None

    def read(self, folder: Path) -> Outcome:
        """Read the files in a folder."""
        if self._process is None:
            self.start()
        return self._request(folder, self._limit)

    def start(self) -> Outcome:
        """Start the process, which first reads the valid files."""
        folder = self._folder / "start" / "files"
        copy_files(self._folder / "valid", folder)
        self._fork()
        return self._request(folder, START)

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _fork(self) -> None:
        self._pipe, child_pipe = self._context.Pipe()
        log = self._folder / "output"
        self._process = self._context.Process(
            target=_serve, args=(child_pipe, self._reader, log), daemon=True
        )
        self._process.start()
        child_pipe.close()

    def _request(self, folder: Path, limit: float) -> Outcome:
        self._pipe.send(folder)
        if not self._pipe.poll(limit):
            self.stop()
            return Outcome("", (f"no answer within {limit:g} seconds",))
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.stop()
            return Outcome("", (f"the process ended with code {code}",))


def _serve(pipe: Connection, reader: Reader, log: Path) -> None:
    output = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    monitor = Monitor()
    sys.addaudithook(monitor)
    limited = False
    with suppress(EOFError):
        while True:
            folder = pipe.recv()
            os.ftruncate(output, 0)
            os.lseek(output, 0, os.SEEK_SET)
            monitor.start(folder)
            refusal, faults = attempt(reader, folder)
            faults += monitor.stop()
            sys.stdout.flush()
            sys.stderr.flush()
            faults += output_faults(os.pread(output, 1 << 20, 0))
            pipe.send(Outcome(refusal, tuple(faults)))
            if not limited:
                limit_memory()
                limited = True


def attempt(reader: Reader, folder: Path) -> tuple[str, list[str]]:
    """Run a reader; return the line that the command would print, and failures."""
    try:
        reader.read(folder)
    except UserError as error:
        line = str(error)
    except OSError as error:
        line = os_error_line(error)
        if not error.filename:
            return "", [f"an error without a file: {_summary(error)}"]
    except BaseException as error:
        return "", [_summary(error)]
    else:
        return "", []
    return line, [] if is_readable(line) else [f"not a readable line: {line!r:.300}"]


def _summary(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    stack = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
    return f"{type(error).__name__} {str(error)!r:.200} at {stack}"


def output_faults(output: bytes) -> list[str]:
    """Return failures in printed text: control characters or a traceback."""
    text = output.decode("utf-8", "backslashreplace")
    wrong = sorted({c for c in text if not c.isprintable() and c not in "\n\t"})
    if wrong or "Traceback" in text:
        return [f"printed {wrong[:5]!r} in {text[:300]!r}"]
    return []


def limit_memory(extra: int = MEMORY) -> None:
    """Limit the address space of this process to its current size plus `extra` bytes."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Monitor:
    """An audit hook of the interpreter that records forbidden actions of a reader."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        libraries = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
        self._may_read = tuple(map(str, (root, *libraries, *site.getsitepackages())))
        # The cache of compiled programs.
        self._may_write = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.devnull)
        self._folder = ""
        self._faults: list[str] = []

    def start(self, folder: Path) -> None:
        """Record from now on; actions inside `folder` are allowed."""
        self._faults, self._folder = [], str(folder.absolute())

    def stop(self) -> list[str]:
        """Stop recording; return the first forbidden actions."""
        self._folder = ""
        return self._faults[:5]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._folder:
            return
        if event == "open":
            self._file(*args[:3])
        elif event.startswith(_PROGRAMS) or event.startswith(_FOREIGN):
            self._faults.append(f"{event} {args!r:.100}")
        elif event in _CHANGING and not self._inside(args[0]):
            self._faults.append(f"{event} of {args[0]!r:.100}")
        elif event == "socket.getaddrinfo" and args[0] != "127.0.0.1":
            self._faults.append(f"a connection to {args[0]!r:.100}")

    def _file(self, path: Any, mode: Any, flags: int) -> None:
        if isinstance(path, int) or self._inside(path):
            return
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        writes = bool(flags & _WRITING)
        system = text.startswith(("/proc/", "/sys/", "/dev/"))
        if writes or not (system or text.startswith(self._may_read)):
            self._faults.append(f"{text[:200]!r} was opened{' to write' if writes else ''}")

    def _inside(self, path: Any) -> bool:
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return f"{text}/".startswith((f"{self._folder}/", f"{self._may_write}/"))
