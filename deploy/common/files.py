"""Files that are whole or absent: written under a temporary name, then renamed."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir, mkdtemp
from typing import IO, Any

import platformdirs

from tinyscene.deploy.common.errors import InputError

TEMPORARY = ".tinyscene-"  # how the names of temporary files and folders begin


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it onto `path` when the block ends well.

    When the block raises, nothing is left and an older file at `path` stays as it was. What a killed process left in
    the folder is removed.
    """
    is_new_folder = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    with _held(lambda: _new_file(path)) as temporary:
        try:
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException as error:
            _name(error, path, temporary)
            temporary.unlink(missing_ok=True)
            if is_new_folder:
                with contextlib.suppress(OSError):  # somebody else's file may be in it by now
                    path.parent.rmdir()
            raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; rename it to `path`, which must not hold anything, at the end.

    When the block raises, nothing is left. What a killed process left beside `path` is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    with _held(lambda: Path(mkdtemp(dir=path.parent, prefix=TEMPORARY))) as temporary:
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.replace(path)
        except BaseException as error:
            _name(error, path, temporary)
            shutil.rmtree(temporary)
            raise


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder where the system keeps temporary files; it is removed at the end.

    What killed processes left there is removed.
    """
    remove_abandoned(Path(gettempdir()))
    with _held(lambda: Path(mkdtemp(prefix=TEMPORARY))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _new_file(path: Path) -> Path:
    with NamedTemporaryFile(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix, delete=False) as handle:
        return Path(handle.name)


@contextlib.contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    """Yield a new temporary file or folder, locked as long as the block runs: so it is seen not to be abandoned."""
    if not _has_locks():
        yield make()
        return
    while True:
        temporary = make()
        try:
            handle = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # taken for an abandoned one
            continue
        lock(handle)
        if temporary.exists():  # and was not taken for one before it was locked
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files and folders whose process was killed: nobody holds their locks."""
    if not _has_locks():  # then nobody holds those in use either
        return
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # in use, or somebody else's
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
            try:
                lock(handle, wait=False)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder. Whoever is killed meanwhile leaves nothing under its name, only what is removed as abandoned."""
    remove_abandoned(folder.parent)
    removed = folder.rename(folder.with_name(f"{TEMPORARY}{folder.name}"))
    shutil.rmtree(removed, ignore_errors=True)  # another process may do it first


def _name(error: BaseException, path: Path, temporary: Path) -> None:
    """Name what the user knows: a full disk does not say whose bytes were too many, others name a temporary file."""
    if isinstance(error, OSError) and error.filename in (None, str(temporary)):
        error.filename = str(path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a whole file or none. Text is UTF-8, with escapes for unpaired surrogates, which a file name may have."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def require_free(folder: Path) -> None:
    """Make sure a new folder can be written here: nothing is there, or an empty one. Raises InputError.

    What a killed process left in it does not count and is removed, as is what was left beside it.
    """
    for place in (folder.parent, folder):
        if place.is_dir():
            remove_abandoned(place)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists and is not empty; choose another name")


def lock(handle: IO[Any] | int, wait: bool = True) -> None:
    """Hold this open file's lock until it is closed; wait until no other process holds it, or raise BlockingIOError.

    Systems without fcntl (Windows) and disks without locks (some of a network) have none: there two processes must
    not write to one folder.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        if not wait or error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


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
        folder = Path(named).absolute() if named else platformdirs.user_cache_path("tinyscene").expanduser()
    except RuntimeError:
        raise InputError(f"this user has no home folder to keep a cache in; {remedy}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be made ({error.strerror}); {remedy}") from None
    return folder


KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def require_file(path: Path) -> None:
    """Raise InputError where nothing is at `path`, or what is no file: a pipe would be waited for, a device has no end.

    A link is what it leads to.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except OSError as error:  # such as a link that leads to itself
        raise InputError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a file but a {KINDS.get(stat.S_IFMT(mode), 'thing of another kind')}")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file that may come from anywhere.

    Raises InputError where it has more than `most`, or is no file, such as a pipe, which would be waited for.
    """
    if path.exists():
        require_file(path)
    with path.open("rb") as handle:
        content = handle.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: larger than {most:,} bytes")
    return content


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
