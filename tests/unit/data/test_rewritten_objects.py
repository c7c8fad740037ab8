"""Objects of a bucket that were made longer are read whole.

gcsfs remembers the size of an object from an earlier listing or download, and then cuts what it
reads to this size.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import gcs_emulator
from support.commands import run_python

READERS = """
import sys
from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.paths import at
from pipelines.data.sources.decompression import DECOMPRESSORS
from pipelines.data.sources.locations import existing, find
from support import gcs_emulator

url, folder = sys.argv[1:]
path = at(f"{folder}/a.txt")
readers = {
    "read_bytes": lambda: path.read_bytes(),
    "open": lambda: path.open("rb").read(),
    "read_text": lambda: path.read_text().encode(),
    "find": lambda: find(f"{folder}/*.txt")[0].open().read(),
    "existing": lambda: existing(f"{folder}/a.txt").open_text().read(),
}
for size in (3, 70_000, 5):
    content = bytes(range(97, 123)) * size
    gcs_emulator.write(url, str(path), content)
    list(path.parent.iterdir())
    for name, read in readers.items():
        print(name, read() == content, path.stat().length == len(content))
log = AppendedObject(path)
for number in range(3):
    log.write(b"line\\n" * 10_000)
    log.flush()
    print("appended", path.read_bytes() == b"line\\n" * 10_000 * (number + 1), True)
log.close()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, str]]]:
    with gcs_emulator.emulator() as (url, variables):
        yield url, variables


def test_every_reader_sees_the_whole_object(server: tuple[str, dict[str, str]]) -> None:
    url, variables = server
    folder = f"{gcs_emulator.make_bucket(url, 'rewritten')}/folder"
    result = run_python(READERS, url, folder, warnings="ignore", **variables)
    lines = result.stdout.splitlines()
    assert len(lines) == 3 * 5 + 3, result.stderr
    assert [line for line in lines if not line.endswith("True True")] == []
