"""Files that are whole or absent, up to a disk that is full."""

import contextlib
import errno
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tinyscene.deploy.common import files
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import (
    cache_folder,
    lock,
    read_bounded,
    remove_folder,
    replacing,
    replacing_folder,
    require_file,
    require_free,
    reserve,
    sha256,
    temporary_folder,
    write_whole,
)
from tinyscene.deploy.common.text import json_text


@pytest.mark.parametrize(("content", "stored"), [("Café\n", b"Caf\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_the_content_is_what_was_written(content: str | bytes, stored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    write_whole(path, content)
    assert path.read_bytes() == stored
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_readable_by_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_left_of_a_folder_whose_removal_was_killed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "one").touch()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, **_: None)
        remove_folder(tmp_path / "steps")
    assert not (tmp_path / "steps").exists()
    require_free(tmp_path / "other")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [True, False])
def test_an_interrupted_write_leaves_the_folder_as_it_was(
    old: bool, error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [file.read_text() for file in tmp_path.iterdir()] == (["old"] if old else [])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    program = f"""
import errno, pathlib, resource
from tinyscene.deploy.common.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_whole(pathlib.Path({str(path)!r}), bytes(100_000))
except OSError as error:
    print(errno.errorcode[error.errno], error.filename)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"EFBIG {path}\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    assert read_bounded(tmp_path / "a.txt", 3) == read_bounded(tmp_path / "a.txt", 1_000) == b"abc"
    with pytest.raises(InputError, match=r"a.txt: larger than 2 bytes"):
        read_bounded(tmp_path / "a.txt", 2)
    with pytest.raises(InputError, match=r": not a file"):
        read_bounded(tmp_path, 2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_named_by_its_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    kinds = {"pipe": "not a file but a pipe", "link": "not a file but a device", ".": "not a file but a folder"}
    for name, line in {**kinds, "missing": "no such file", "pipe/x": "no such file", "loop": ".*links"}.items():
        with pytest.raises(InputError, match=f"{name}: {line}$" if name != "." else line):
            require_file(tmp_path / name)


def test_sha256_of_abc_is_the_standards(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_user_without_a_home_folder_is_told_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TINYSCENE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user that the system does not list
    with pytest.raises(InputError, match="no home folder to keep a cache in; set TINYSCENE_CACHE"):
        cache_folder()


def test_a_cache_that_cannot_be_made_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"cannot be made \(Not a directory\); set TINYSCENE_CACHE"):
        cache_folder()


def leave_behind(folder: Path, kind: str) -> None:
    """What a process killed within `replacing` or `replacing_folder` leaves."""
    program = f"""
import os, signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from tinyscene.deploy.common.files import {kind}
with {kind}(Path({str(folder / "new")!r})) as temporary:
    (temporary / "inside" if temporary.is_dir() else temporary).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("kind", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next_write(kind: str, tmp_path: Path) -> None:
    leave_behind(tmp_path, kind)
    write_whole(tmp_path / "other.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os; from tinyscene.deploy.common.files import temporary_folder as folder\n"
    program += "with folder() as made:\n (made / 'half').write_bytes(b''); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder, temporary_folder() as other:
        assert {*tmp_path.iterdir()} == {folder, other}
        assert left not in (folder, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_with_the_name_of_a_temporary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".tinyscene-pipe")
    program = "import sys; from tinyscene.deploy.common.files import Path, write_whole\n"
    program += "write_whole(Path(sys.argv[1]), 'whole')"
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.txt"], cwd=ROOT, check=True, timeout=20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["_new_file", "mkdtemp"])
def test_what_another_process_takes_for_abandoned_before_it_is_locked_is_made_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = getattr(files, kind), []

    def taken_at_first(*arguments: Any, **options: Any) -> Any:
        made.append(Path(make(*arguments, **options)))
        if len(made) == 1:
            made[0].unlink() if made[0].is_file() else made[0].rmdir()
        return made[-1]

    monkeypatch.setattr(files, kind, taken_at_first)
    with (files.replacing if kind == "_new_file" else files.replacing_folder)(tmp_path / "new"):
        pass
    assert ([path.name for path in tmp_path.iterdir()], len(made)) == (["new"], 2)


def test_without_locks_what_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        monkeypatch.setitem(sys.modules, "fcntl", None)  # as in another process of such a Python
        with temporary_folder():
            assert folder.exists()


def test_a_folder_that_another_process_removes_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def and_remove(path: Path, target: Path) -> Path:
        shutil.rmtree(renamed := rename(path, target))
        return renamed

    (tmp_path / "old").mkdir()
    monkeypatch.setattr(Path, "rename", and_remove)
    remove_folder(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["replacing", "replacing_folder"])
def test_a_folder_with_nothing_but_what_a_killed_process_left_is_free(kind: str, tmp_path: Path) -> None:
    leave_behind(tmp_path, kind)
    require_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [replacing, replacing_folder])
def test_what_another_write_is_still_filling_stays(block: Callable[..., Any], tmp_path: Path) -> None:
    with block(tmp_path / "slow") as temporary:
        write_whole(tmp_path / "quick.txt", "whole")
        assert temporary.exists()
        (temporary / "inside" if temporary.is_dir() else temporary).write_bytes(b"slow")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick.txt", "slow"]


def test_json_has_null_for_what_is_no_number() -> None:
    assert json.loads(json_text({"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf}, "d": "x"})) == {
        "a": [None, 1.5, [None]],
        "b": {"c": None},
        "d": "x",
    }


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, replace = [], os.fsync, os.replace

    def sync(handle: int) -> None:
        done.append(("fsync", os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    def rename(source: Path, target: Path) -> None:
        done.append(("rename", Path(source).stat().st_ino, Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write_whole(tmp_path / "a.bin", bytes(1000))
    inode = (tmp_path / "a.bin").stat().st_ino
    assert done == [("fsync", inode, 1000), ("rename", inode, 1000)]


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "new"):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source")


def test_an_error_about_a_temporary_file_names_that_which_it_should_become(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_whole(tmp_path / "taken", "x")
    assert caught.value.filename == str(tmp_path / "taken")


def test_a_folder_is_written_into_folders_that_are_made(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "a" / "b" / "c") as temporary:
        (temporary / "file").write_bytes(b"content")
    assert (tmp_path / "a" / "b" / "c" / "file").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("number", "wait", "raises"),
    [(errno.ENOLCK, True, False), (errno.ENOTSUP, True, False), (errno.EIO, True, True), (errno.ENOLCK, False, True)],
)
def test_a_disk_without_locks_is_written_to_without_one(
    number: int, wait: bool, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    expected = pytest.raises(OSError, match=os.strerror(number)) if raises else contextlib.nullcontext()
    with (tmp_path / "a").open("wb") as handle, expected:
        lock(handle, wait)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as first, (tmp_path / "a").open("wb") as second:
        lock(first)
        waiting = threading.Thread(target=lock, args=(second,))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        first.close()
        waiting.join(10)
        with pytest.raises(BlockingIOError), (tmp_path / "a").open("wb") as third:
            lock(third, wait=False)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_file_gets_all_the_room_that_was_reserved_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with (tmp_path / "a").open("rb+") as handle:
        reserve(handle, 100_000)
    found = (tmp_path / "a").stat()
    assert (found.st_size, found.st_blocks * 512 >= 100_000) == (100_000, True)
    assert (tmp_path / "a").read_bytes().rstrip(b"\0") == b"content"


def test_a_folder_that_holds_something_and_a_file_are_not_free(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="already exists and is not empty"):
            require_free(taken)


def test_a_cache_folder_is_made_with_those_above_it_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == cache_folder() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_relative_cache_folder_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYSCENE_CACHE", "mine")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == tmp_path / "mine"


def test_a_new_folder_is_open_to_all_for_reading(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_an_interrupted_folder_is_not_left(tmp_path: Path) -> None:
    def interrupted() -> None:
        with replacing_folder(tmp_path / "new") as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda folder: replacing(folder / "new"), lambda _: temporary_folder()])
def test_an_error_is_not_hidden_by_a_temporary_file_that_is_gone(make: Callable[..., Any], tmp_path: Path) -> None:
    def fail() -> None:
        with make(tmp_path) as temporary:
            temporary.rmdir() if temporary.is_dir() else temporary.unlink()
            raise ValueError("what went wrong")

    with pytest.raises(ValueError, match="what went wrong"):
        fail()
