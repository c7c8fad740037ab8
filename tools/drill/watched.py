"""A process in which a reader is watched."""

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

from bert_jax.runtime.entry_point import line_of
from bert_jax.runtime.errors import UserError
from tools.drill.mutations import Change, copied
from tools.drill.report import is_readable

MEMORY = 1 << 30  # bytes of address space more than reading the good files took
START = 120.0  # seconds to import everything and to read the good files

# Imported once, by the process that all others are copies of.
HEAVY = [
    "pipelines.models.features",
    "pipelines.models.model_card",
    "pipelines.commands.prepare",
    "pipelines.reports.page",
    "tpu.host.supervise",
    "tpu.launch.status",
]
HEAVY += [f"pipelines.tasks.{name}" for name in ("multiple_choice", "ranking", "regression")]
HEAVY += ["pipelines.tasks.qa.task", "pipelines.tasks.tagging.task"]
HEAVY += ["pipelines.tasks.summarization.task", "pipelines.data.tokenizers.export"]
_PROGRAMS = ("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "pty.")
_FOREIGN = ("pickle.", "ctypes.dlopen")
_CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _nothing(folder: Path, rng: Random) -> None:
    pass


@dataclass(frozen=True)
class Reader:
    """What reads files of a kind.

    Attributes:
        name: For the table.
        make: Writes good files into a folder.
        read: Reads them, as the commands do.
        damaged: Which files are damaged.
        special: Changes that only these files can suffer; they may miss one of another form.
        refusal: What is said of the good files, if they are refused.
        mend: Is called after a change, to make checksums right again.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    damaged: tuple[str, ...]
    special: tuple[Change, ...] = ()
    refusal: str = ""
    mend: Callable[[Path, Random], object] = _nothing

    def files(self, folder: Path) -> list[Path]:
        """Those in `folder` that are damaged; one that two patterns name comes twice."""
        found = [path for pattern in self.damaged for path in sorted(folder.glob(pattern))]
        return [path for path in found if path.is_file()]


@dataclass(frozen=True)
class Outcome:
    """Of one try.

    Attributes:
        refusal: What the reader said; empty if it succeeded.
        faults: What must not be.
    """

    refusal: str
    faults: tuple[str, ...]


class Child:
    """The process in which a reader runs; begun anew when it ended."""

    def __init__(self, reader: Reader, folder: Path, limit: float) -> None:
        self._reader, self._folder, self._limit = reader, folder, limit
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(HEAVY)
        self._process: Any = None

    def read(self, place: Path) -> Outcome:
        """Lets it read the files in `place`."""
        if self._process is None:
            self.begin()
        return self._ask(place, self._limit)

    def begin(self) -> Outcome:
        """Begins the process, which reads the good files first."""
        place = self._folder / "begin" / "files"
        copied(self._folder / "good", place)
        self._start()
        return self._ask(place, START)

    def end(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        log = self._folder / "said"
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._reader, log), daemon=True
        )
        self._process.start()
        theirs.close()

    def _ask(self, place: Path, limit: float) -> Outcome:
        self._pipe.send(place)
        if not self._pipe.poll(limit):
            self.end()
            return Outcome("", (f"no answer within {limit:g} seconds",))
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.end()
            return Outcome("", (f"the process ended with code {code}",))


def _serve(pipe: Connection, reader: Reader, log: Path) -> None:
    """What the process does: reads what it is told to, and tells what came of it."""
    said = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(said, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = Guard()
    sys.addaudithook(guard)
    bound = False
    with suppress(EOFError):
        while True:
            place = pipe.recv()
            os.ftruncate(said, 0)
            os.lseek(said, 0, os.SEEK_SET)
            guard.watch(place)
            refusal, faults = tried(reader, place)
            faults += guard.found()
            sys.stdout.flush()
            sys.stderr.flush()
            faults += unprintable(os.pread(said, 1 << 20, 0))
            pipe.send(Outcome(refusal, tuple(faults)))
            if not bound:
                bind_memory()
                bound = True


def tried(reader: Reader, place: Path) -> tuple[str, list[str]]:
    """What the command would print, and what is wrong with how it ended."""
    try:
        reader.read(place)
    except UserError as error:
        line = str(error)
    except OSError as error:
        line = line_of(error)
        if not error.filename:
            return "", [f"an error of no file: {_short(error)}"]
    except BaseException as error:
        return "", [_short(error)]
    else:
        return "", []
    return line, [] if is_readable(line) else [f"not a readable line: {line!r:.300}"]


def _short(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
    return f"{type(error).__name__} {str(error)!r:.200} at {places}"


def unprintable(said: bytes) -> list[str]:
    text = said.decode("utf-8", "backslashreplace")
    wrong = sorted({c for c in text if not c.isprintable() and c not in "\n\t"})
    if wrong or "Traceback" in text:
        return [f"printed {wrong[:5]!r} in {text[:300]!r}"]
    return []


def bind_memory(more: int = MEMORY) -> None:
    """From now on this process gets so many bytes of address space beside what it has."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Guard:
    """Hears what the interpreter does, and remembers what a reader has no business to do."""

    def __init__(self) -> None:
        here = Path(__file__).parents[2]
        libraries = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
        self._may_read = tuple(map(str, (here, *libraries, *site.getsitepackages())))
        # Programs that JAX compiled are kept there.
        self._may_write = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.devnull)
        self._place = ""
        self._found: list[str] = []

    def watch(self, place: Path) -> None:
        """Begins a try."""
        self._found, self._place = [], str(place.absolute())

    def found(self) -> list[str]:
        """What was done since."""
        self._place = ""
        return self._found[:5]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if not self._place:
            return
        if event == "open":
            self._file(*args[:3])
        elif event.startswith(_PROGRAMS) or event.startswith(_FOREIGN):
            self._found.append(f"{event} {args!r:.100}")
        elif event in _CHANGING and not self._inside(args[0]):
            self._found.append(f"{event} of {args[0]!r:.100}")
        elif event == "socket.getaddrinfo" and args[0] != "127.0.0.1":
            self._found.append(f"a connection to {args[0]!r:.100}")

    def _file(self, path: Any, mode: Any, flags: int) -> None:
        if isinstance(path, int) or self._inside(path):
            return
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        writes = bool(flags & _WRITING)
        system = text.startswith(("/proc/", "/sys/", "/dev/"))
        if writes or not (system or text.startswith(self._may_read)):
            self._found.append(f"{text[:200]!r} was opened{' to write' if writes else ''}")

    def _inside(self, path: Any) -> bool:
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return f"{text}/".startswith((f"{self._place}/", f"{self._may_write}/"))
