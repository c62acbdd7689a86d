"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faithprobe.errors import StoreError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block ends, removes it when it throws.

    Raises StoreError where the disk is full or the folder cannot be written: what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"could not write {path}: {error.strerror or error}; {_way_out(error)}") from error
    finally:
        with suppress(OSError):  # the error above says what is wrong
            temporary.unlink(missing_ok=True)


def _way_out(error: OSError) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError | FileNotFoundError):
        return "a file stands where a folder must be, or no folder can be made there: name another one"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "name a folder that you may write to, or make this one writable and run the same command again"
    return "what was finished before is kept, so free some space and run the same command again"


def write_text(path: Path, text: str) -> Path:
    """Writes a text file whole or not at all."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
