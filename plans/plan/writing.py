"""Writing files that nobody loses anything by: whole or not at all, and never over another file unasked."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LEFT_BEHIND, MAX_AGE = re.compile(r"\.[0-9a-f]{32}\.tmp"), 86_400  # seconds


def write_new(path: Path, content: bytes, overwrite: bool = False) -> Path:
    """Write a file in one step; a file that already has this content is left alone.

    Raises:
        FileExistsError: the file has other content and `overwrite` is False; nothing is written.
        OSError: the folder is not there or cannot be written.
    """
    if _holds(path, content):
        return path
    if path.exists() and not overwrite:
        raise _exists(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    _clean(path.parent)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, overwrite)
    except FileExistsError:
        if not _holds(path, content):  # another saver was faster, with other content
            raise _exists(path) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def write_all(contents: Mapping[Path, bytes], overwrite: bool = False) -> None:
    """Write several files that belong together; where one of the names is taken, none.

    Raises:
        FileExistsError, OSError: as `write_new`.
    """
    for path, content in contents.items():
        if path.exists() and not overwrite and not _holds(path, content):
            raise _exists(path)
    for path, content in contents.items():
        write_new(path, content, overwrite)


@contextmanager
def alone(path: Path, wait: float = 5.0) -> Iterator[None]:
    """No other process that asks for it changes a file meanwhile; goes on all the same after `wait` seconds, as a
    process that was killed never gives it back, and where the folder cannot be written."""
    lock, end, owned = path.with_name(f".{path.name}.lock"), time.monotonic() + wait, False
    while True:
        try:
            open(lock, "xb").close()
            owned = True
            break
        except FileExistsError:
            if time.monotonic() > end:
                owned = True  # nobody holds it any more
                break
            time.sleep(0.01)
        except OSError:
            break
    try:
        yield
    finally:
        if owned:
            with contextlib.suppress(OSError):
                lock.unlink()


def _clean(folder: Path) -> None:
    """Remove what writers left that were killed more than a day ago."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if LEFT_BEHIND.fullmatch(path.name) and path.stat().st_mtime < time.time() - MAX_AGE:
                path.unlink()


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name in one step; FileExistsError if there is one and it must stay."""
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError, AttributeError):  # no hard links here: reserve the name, then fill it
        open(path, "xb").close()
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink()
            raise


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path}: another file has this name, choose a new one or allow overwriting")
