"""Files that are whole or absent: written under a temporary name, then renamed."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import IO, Any

import platformdirs

from tinyscene.deploy.common.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it onto `path` when the block ends well.

    When the block raises, nothing is left and an older file at `path` stays as it was.
    """
    is_new_folder = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix, delete=False) as handle:
        temporary = Path(handle.name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        _name(error, path)
        temporary.unlink(missing_ok=True)
        if is_new_folder:
            with contextlib.suppress(OSError):  # somebody else's file may be in it by now
                path.parent.rmdir()
        raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; rename it to `path`, which must not hold anything, at the end.

    When the block raises, nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(path)
    except BaseException as error:
        _name(error, path)
        shutil.rmtree(temporary)
        raise


def _name(error: BaseException, path: Path) -> None:
    """A full disk does not say whose bytes were too many; say it."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a whole file or none. Text is UTF-8, with escapes for unpaired surrogates, which a file name may have."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def require_free(folder: Path) -> None:
    """Make sure a new folder can be written here: nothing is there, or an empty one. Raises InputError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists and is not empty; choose another name")


def lock(handle: IO[Any]) -> None:
    """Wait until no other process holds this open file's lock, and hold it until the file is closed.

    Systems without fcntl (Windows) have no such lock: there two processes must not write to one folder.
    """
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def reserve(handle: IO[Any], size: int) -> None:
    """Give an open file room for `size` bytes, so that a full disk is an error here and not a crash in a memory map.

    Systems without posix_fallocate (macOS, Windows) get a file of that size without this assurance.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), 0, size)
    else:
        handle.truncate(max(size, os.fstat(handle.fileno()).st_size))


def cache_folder() -> Path:
    """Where caches go: $TINYSCENE_CACHE, or the user's cache folder. It is made if it is missing.

    Raises InputError where there is none, as for a user without a home folder, or where it cannot be made.
    """
    named = os.environ.get("TINYSCENE_CACHE")
    remedy = "set TINYSCENE_CACHE to a folder that can be written"
    try:
        folder = Path(named) if named else platformdirs.user_cache_path("tinyscene").expanduser()
    except RuntimeError:
        raise InputError(f"this user has no home folder to keep a cache in; {remedy}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be made ({error.strerror}); {remedy}") from None
    return folder


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
