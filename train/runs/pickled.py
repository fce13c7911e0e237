"""Files of torch.save, held to limits before anything of them is made, and read without executing anything.

A file is a zip archive of a pickle and of storages. A small one may ask for any amount of memory: compressed entries,
views with more values than are stored, calls that make large objects. So the archive's directory and the pickle's
operations are checked first; then torch reads it with `weights_only`, and storages are mapped, not copied.
"""

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_file

PICKLED = (".pt", ".pth", ".ckpt", ".bin")  # endings of such files
MAX_FILE = 2**31  # bytes; mapped, not read
MAX_DIRECTORY = 2**23  # bytes of the archive's directory: 70,000 storages
MAX_PICKLE = 2**25  # bytes
MAX_TENSORS = 40_000  # which torch makes in 10 s
MAX_OTHERS = 1_000_000  # operations of the pickle that no tensor needs: names and settings
CALLS_OF_A_TENSOR = 4  # itself and its hooks, and where it is a parameter that and its hooks
OF_A_TENSOR = 40  # operations; torch.save writes 30
MAX_VALUES = 2**28  # of all tensors; PaSST with the moments of its optimizer has 258 million
PLAIN = {  # what a pickle may name: plain data, and tensors that are no more than a view of a storage
    "collections OrderedDict",
    "collections Counter",
    "builtins set",
    "__builtin__ set",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
}
DIRECTORY_END = struct.Struct("<4s8xII")  # signature, size and offset of the directory
DIRECTORY_END_64 = struct.Struct("<4s36xQQ")


def read_pickled(path: Path) -> dict[str, Any]:
    """A dictionary of a file of torch.save; a `state_dict` or `model` within is it. Raises InputError for any other."""
    require_file(path)
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # torch raises what it likes at a broken or hostile file, and advises to trust it
        raise InputError(f"{path}: not a file of torch.save that can be read ({type(error).__name__})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: holds no dictionary from names to tensors")
    _check_views(path, content)
    return content


def _check_archive(path: Path) -> None:
    """Raise InputError unless the archive holds what it declares and its pickle is short and plain."""
    if (size := path.stat().st_size) > MAX_FILE:
        raise InputError(f"larger than {MAX_FILE >> 20} MB")
    with path.open("rb") as handle:
        if handle.read(4) != b"PK\3\4":
            raise InputError("not written by torch.save of torch 1.6 or later: load it there and save it again")
        if _directory_bytes(handle.read, handle.seek, size) > MAX_DIRECTORY:
            raise InputError("its archive has too many entries")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError("its entries are compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > size:
            raise InputError("its entries declare more bytes than the file has")
        if len({entry.filename.casefold() for entry in entries}) < len(entries):
            raise InputError("two entries of its archive have the same name")
        pickles = [entry for entry in entries if entry.filename.casefold().endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            raise InputError(f"needs one data.pkl of {MAX_PICKLE >> 20} MB at most")
        _check_pickle(archive.read(pickles[0]))


def _directory_bytes(read: Any, seek: Any, size: int) -> int:
    """The size of a zip archive's directory, as its last records declare it."""
    seek(max(0, size - 2**16 - 200))
    tail = read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or end + DIRECTORY_END.size > len(tail):
        raise InputError("is cut short, or no archive")
    sizes = [DIRECTORY_END.unpack_from(tail, end)[1]]
    end_64 = tail.rfind(b"PK\6\6")
    if 0 <= end_64 <= len(tail) - DIRECTORY_END_64.size:
        sizes = [declared for declared in sizes if declared != 2**32 - 1]
        sizes.append(DIRECTORY_END_64.unpack_from(tail, end_64)[1])
    return max(sizes)


def _check_pickle(content: bytes) -> None:
    """Raise InputError for a pickle that is long, makes many tensors, or names anything but plain data and tensors."""
    tensors = calls = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        tensors += opcode.name in ("BINPERSID", "PERSID")  # one for each tensor's storage
        calls += opcode.name == "REDUCE"  # which makes a tensor of a storage, be it that of another
        if tensors > MAX_TENSORS or calls > CALLS_OF_A_TENSOR * MAX_TENSORS:
            raise InputError(
                f"holds more than {MAX_TENSORS:,} tensors: save them as one, with a list of names beside it"
            )
        if count >= MAX_OTHERS + OF_A_TENSOR * tensors:
            raise InputError("holds too many objects")
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            is_dtype = isinstance(getattr(torch, name, None), torch.dtype)
            is_type = module == "torch" and (is_dtype or name.endswith("Storage"))
            if argument not in PLAIN and not is_type:
                raise InputError(f"holds {module}.{name[:100]}: only plain data and plain tensors are read")


def _check_views(path: Path, content: dict[str, Any]) -> None:
    """Raise InputError where tensors have more values than are stored, or than fit into memory."""
    total = 0
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {name[:100]} has {list(tensor.shape)} values, more than the file holds")
        total += tensor.numel()
        if total > MAX_VALUES:
            raise InputError(f"{path}: its tensors have more than {MAX_VALUES:,} values")
