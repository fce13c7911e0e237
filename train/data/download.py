"""Downloads: once, bounded in size, and held to the checksum of the first time.

Those who publish the weights and lists that are fetched here give no checksums. So the one that is seen first is kept
beside the file, and a file that has changed since then is fetched anew and refused if it is another.
"""

from pathlib import Path
from typing import Any

import pooch
import requests

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256, write_whole
from tinyscene.deploy.common.progress import progress

BLOCK = 2**16  # bytes
TIMEOUT = 30  # seconds without a byte


def download(url: str, folder: Path, most: int, known: str | None = None) -> Path:
    """The file at a URL, of `most` bytes at most, in a folder. Raises whatever the transport raises, and InputError.

    `known` is its SHA-256; without it that of the first time is held to. ValueError: the file has another.
    """
    path = folder / url.rpartition("/")[2]
    record = path.with_name(f"{path.name}.sha256")
    seen = record.read_text(encoding="utf-8").strip() if record.exists() else None
    pooch.get_logger().setLevel("WARNING")
    fetched = Path(pooch.retrieve(url, known or seen, path.name, folder, downloader=_Bounded(most)))
    if seen is None:
        write_whole(record, f"{sha256(fetched)}\n")
    return fetched


class _Bounded:
    """A downloader for pooch that stops at a number of bytes."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, fname: str, action: Any, pooch: Any, *, check_only: bool | None = None) -> None:  # noqa: ARG002
        """Fetch the URL `fname` into the file `action`: the names are those of pooch's protocol."""
        with requests.get(fname, stream=True, timeout=TIMEOUT) as response, Path(action).open("wb") as handle:
            response.raise_for_status()
            count, total = 0, int(response.headers.get("content-length", self.most))
            with progress("downloading", total) as advance:
                for block in response.iter_content(BLOCK):
                    count += len(block)
                    if count > self.most:
                        raise InputError(f"{fname}: larger than {self.most:,} bytes")
                    handle.write(block)
                    advance(len(block))
