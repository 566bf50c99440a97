"""Replacing a file in one step: the old one or the new one, never a part of it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgery.checkpoint.source import denied, kind_of
from surgery.errors import CheckpointError
from surgery.wording import printable


@contextmanager
def replacing(
    path: Path, *, part_of: str | None = None, like: Path | None = None
) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    A symbolic link is written through. The new file has the mode of the one it replaces, or that
    of ``like``, or what the umask gives. However the block ends, by an error, Ctrl-C or a full
    disk, the temporary file is gone; the old file is as it was unless all went well. What a
    killed process left beside ``path`` is removed first. Hard links to the old file keep the old
    content. ``part_of`` is the name of what the file is a part of: all parts' drafts are called
    after it, so that whichever part is written next removes them. Raises CheckpointError where
    nothing can be written.
    """
    target = writable(path)
    # Of the name's bytes as many as leave room for the rest: most systems take 255.
    prefix = f".{os.fsdecode(os.fsencode(part_of or target.name)[:100])}."
    draft = target.with_name(f"{prefix}{secrets.token_hex(8)}.tmp")
    handle = None
    try:
        _sweep(target.parent, prefix)
        handle = _create(draft)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        draft.chmod(0o600)  # the old file may be one that others are not to read
        yield draft
        with draft.open("rb") as written:  # before the mode may forbid it
            draft.chmod(_mode(target) or (like and _mode(like)) or mode)
            os.fsync(written.fileno())
        draft.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise denied(path, error, "cannot be written") from error
    finally:
        # What stays is swept by whoever writes here next. No failure may hide the one before it: a
        # read-only file system refuses to remove even what does not exist.
        with suppress(OSError):
            draft.unlink()
        if handle is not None:
            os.close(handle)


def writable(path: Path) -> Path:
    """The file that writing to ``path`` would make, behind all links.

    Raises CheckpointError where a folder or a pipe is in its place, or where no folder would
    hold it.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            kind = kind_of(target.stat().st_mode)
            raise CheckpointError(f"{printable(path)}: {kind}, and a file was to be written")
        if not target.parent.is_dir():
            raise CheckpointError(
                f"{printable(path)}: no folder {printable(target.parent)} to write to"
            )
    except OSError as error:  # such as a name that is too long
        raise denied(path, error, "cannot be written") from error
    except ValueError as error:  # no name: a NUL, or half of a character
        raise CheckpointError(f"{printable(path)}: cannot be written: {error}") from error
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


def _sweep(folder: Path, prefix: str) -> None:
    """Remove drafts whose process was killed: nobody holds their lock any more."""
    left = re.compile(re.escape(prefix) + r"[0-9a-f]{16}\.tmp")
    with suppress(PermissionError):  # a folder that may be written to and not listed
        for entry in folder.iterdir():
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


def _flush_folder(folder: Path) -> None:
    """To the disk, or a power cut may forget the rename."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # not to be listed; and Windows opens no folders
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise  # what some network folders answer is no failure of the disk
    finally:
        os.close(handle)
