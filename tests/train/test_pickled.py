"""Hostile files of torch.save: refused in one line, before anything of the size that they ask for is made."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.runs import pickled
from tinyscene.train.runs.pickled import read_pickled

resource = pytest.importorskip("resource")  # which Windows lacks
ONE_GB = 2**30


def edited(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save whose archive's entries are changed."""
    saved = io.BytesIO()
    torch.save({"logits": torch.zeros(2, 10)}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", compression) as out:
        for name in source.namelist():
            out.writestr(name, change(name, source.read(name)))
    return path


def memory(read: Callable[[], Any]) -> int:
    """Bytes by which the peak of this process's memory rises."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_pickled(path)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["data/0", "data.pkl"])
def test_a_compressed_entry_is_not_unpacked(entry: str, tmp_path: Path) -> None:
    path = edited(
        tmp_path / "x.pt",
        lambda name, content: bytes(ONE_GB // 4) if name.endswith(entry) else content,
        zipfile.ZIP_DEFLATED,
    )
    assert memory(lambda: refuse(path, "compressed")) < ONE_GB // 8


@pytest.mark.parametrize("shape", [(10**6, 10**5), (1, 2**40), (1, 2)])
def test_a_tensor_with_more_values_than_are_stored_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({"logits": torch.zeros(1, 1).expand(shape)}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "more than the file holds")


def test_views_of_one_storage_are_counted_each(tmp_path: Path) -> None:
    stored = torch.zeros(2**22)
    torch.save({str(number): stored[:] for number in range(65)}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "tensors have more than 268,435,456 values")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(2, 10, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(2, 10, dtype=torch.float8_e4m3fn),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ],
)
def test_a_tensor_that_is_no_plain_one_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"logits": tensor}, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "only plain data and plain tensors")


def test_a_pickle_may_not_call_what_makes_large_objects(tmp_path: Path) -> None:
    call = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."
    path = edited(tmp_path / "x.pt", lambda name, content: call if name.endswith("data.pkl") else content)
    refuse(path, r"holds builtins\.bytearray")


def test_more_tensors_than_are_made_in_some_seconds_are_refused_before_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyscene.train.runs.pickled.MAX_TENSORS", 100)
    torch.save({str(number): torch.zeros(1) for number in range(100)}, tmp_path / "x.pt")
    assert len(read_pickled(tmp_path / "x.pt")) == 100
    torch.save({str(number): torch.nn.Parameter(torch.zeros(1)) for number in range(100)}, tmp_path / "y.pt")
    assert len(read_pickled(tmp_path / "y.pt")) == 100
    stored = torch.zeros(1)
    torch.save({str(number): stored[:] for number in range(101)}, tmp_path / "x.pt")
    monkeypatch.delattr(torch, "load")
    refuse(tmp_path / "x.pt", "holds more than 100 tensors: save them as one")
    calls = b"\x80\x02ccollections\nOrderedDict\nq\0" + b"h\0)R" * 401 + b"."
    path = edited(tmp_path / "x.pt", lambda name, content: calls if name.endswith("data.pkl") else content)
    refuse(path, "holds more than 100 tensors")


def test_operations_that_make_no_tensor_are_bounded_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyscene.train.runs.pickled.MAX_OTHERS", 1_000)
    objects = b"\x80\x02(" + b"}" * 1_000 + b"l."
    path = edited(tmp_path / "x.pt", lambda name, content: objects if name.endswith("data.pkl") else content)
    refuse(path, "too many objects")
    torch.save({str(number): torch.zeros(1) for number in range(100)}, path)  # some 3,000 operations
    assert len(read_pickled(path)) == 100


def test_a_second_pickle_cannot_hide_behind_the_one_that_is_checked(tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02}.")
    refuse(path, r"the same name|one data\.pkl")


@pytest.mark.parametrize("more", [0, 1])
def test_a_directory_of_very_many_entries_is_not_read(more: int, tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\5\6")
    content[end + 12 : end + 16] = (2**23 + more).to_bytes(4, "little")
    path.write_bytes(content)
    refuse(path, "too many entries" if more else "not a file of torch.save")


def test_a_file_cut_short_is_refused_in_words_of_ours(tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    path.write_bytes(path.read_bytes()[:-100])
    refuse(path, "cut short|not a file of torch.save")


def test_the_format_of_torch_before_1_6_is_named(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    refuse(tmp_path / "x.pt", "load it there and save it again")


def test_entries_that_declare_more_than_the_file_has_are_refused(tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\1\2")  # of the archive's directory
    content[entry + 24 : entry + 28] = len(content).to_bytes(4, "little")
    path.write_bytes(content)
    refuse(path, "declare more bytes")


@pytest.mark.parametrize("declared", [None, 2**40])
def test_a_directory_of_64_bits_counts_too(declared: int | None, tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\5\6")
    entries, size, offset = struct.unpack_from("<HII", content, end + 10)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, declared or size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    if declared is None:
        struct.pack_into("<HHII", content, end + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    path.write_bytes(content[:end] + record + locator + content[end:])
    if declared:
        refuse(path, "too many entries")
    else:
        assert read_pickled(path)["logits"].shape == (2, 10)


@pytest.mark.parametrize("more", [0, 1])
def test_a_pickle_has_a_largest_size_and_a_file_too(more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    with zipfile.ZipFile(path) as archive:
        sizes = {"MAX_PICKLE": archive.getinfo("archive/data.pkl").file_size, "MAX_FILE": path.stat().st_size}
    for name, reason in (("MAX_PICKLE", r"needs one data\.pkl"), ("MAX_FILE", "larger than")):
        monkeypatch.setattr(pickled, name, sizes[name] - more)
        if more:
            refuse(path, reason)
    assert more or read_pickled(path)


def test_an_archive_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data/0", b"")
    refuse(tmp_path / "x.pt", r"needs one data\.pkl of 32 MB at most")


def test_a_file_of_more_than_2_gb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = edited(tmp_path / "x.pt", lambda _, content: content)
    os.truncate(path, 2**31 + 1)  # sparse
    assert memory(lambda: refuse(path, "larger than 2048 MB")) < ONE_GB // 8
