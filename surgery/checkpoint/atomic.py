"""Replacing a file in one step: the old one or the new one, never a part of it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.checkpoint.wording import shown
from surgery.errors import CheckpointError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    A symbolic link is written through. The new file has the mode of the one it replaces, or
    the mode that the umask gives. However the block ends, by an error, Ctrl-C or a full disk,
    the temporary file is gone; the old file is as it was unless all went well. What a killed
    process left beside ``path`` is removed first. Hard links to the old file keep the old
    content. Raises CheckpointError where nothing can be written.
    """
    target = writable(path)
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    handle = None
    try:
        _sweep(target)
        handle = _create(draft)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        yield draft
        draft.chmod(_mode(target) or mode)
        _flush(draft)
        draft.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise CheckpointError(
            f"{shown(path)}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def writable(path: Path) -> Path:
    """The file that writing to ``path`` would make, behind all links.

    Raises CheckpointError where a folder is in its place, or where none would hold it.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise CheckpointError(f"{shown(path)}: a folder, and a file was to be written")
    if not target.parent.is_dir():
        raise CheckpointError(f"{shown(path)}: no folder {shown(target.parent)} to write to")
    return target


def _create(draft: Path) -> int:
    """Make the file and keep it open and locked: it is somebody's as long as the lock is held.

    O_EXCL never follows a link that someone put there. The mode is set again at the end, as
    whoever writes may replace the file by one of their own.
    """
    while True:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # Between the two calls another process may have taken the file for an abandoned one.
        if lock(handle) is not False and draft.exists():
            return handle
        os.close(handle)


def _sweep(target: Path) -> None:
    """Remove drafts of this file whose process was killed: nobody holds their lock any more."""
    left = re.compile(rf"\.{re.escape(target.name[:100])}\.[0-9a-f]{{16}}\.tmp")
    for entry in target.parent.iterdir():
        if left.fullmatch(entry.name):
            _remove_abandoned(entry)


def _remove_abandoned(draft: Path) -> None:
    try:
        handle = os.open(draft, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return  # gone by now, or another user's
    try:
        if lock(handle) is True:
            draft.unlink(missing_ok=True)
    finally:
        os.close(handle)


def lock(handle: int, *, wait: bool = False) -> bool | None:
    """Whether the open file or folder is ours alone now; None where there are no locks (Windows,
    some network folders). A lock ends with its process, however that ends.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL):
            raise
        return None
    return True


def _mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def _flush(path: Path) -> None:
    """To the disk. A folder is flushed too, or a power cut may forget the rename."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
