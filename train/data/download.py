"""Downloads: once, bounded in size, and held to the checksum of the first time.

Those who publish the weights and lists that are fetched here give no checksums. So the one that is seen first is kept
beside the file, and a file that has changed since then is fetched anew and refused if it is another.
"""

from pathlib import Path

import requests

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing, sha256, write_whole
from tinyscene.deploy.common.progress import progress

BLOCK = 2**16  # bytes
TIMEOUT = 30  # seconds without a byte


class DownloadError(Exception):
    """What a server or the way to it has failed with; not what the disk has."""


class OtherFileError(DownloadError):
    """A file whose SHA-256 is not the known one."""


def download(url: str, folder: Path, most: int, known: str | None = None) -> Path:
    """The file at a URL, of `most` bytes at most, in a folder.

    `known` is its SHA-256; without it that of the first time is held to. Raises DownloadError, OtherFileError, OSError
    where it cannot be written, and InputError for a file that is too large.
    """
    path = folder / url.rpartition("/")[2]
    record = path.with_name(f"{path.name}.sha256")
    seen = record.read_text(encoding="utf-8").strip() if record.exists() else None
    expected = known or seen
    if not path.is_file() or expected not in (None, sha256(path)):
        with replacing(path) as temporary:
            _fetch(url, temporary, most)
            if expected not in (None, sha256(temporary)):
                raise OtherFileError(f"{url}: has another SHA-256 than {expected}")
    if seen is None:
        write_whole(record, f"{sha256(path)}\n")
    return path


def _fetch(url: str, path: Path, most: int) -> None:
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as handle:
            response.raise_for_status()
            count, total = 0, int(response.headers.get("content-length", most))
            with progress("downloading", total) as advance:
                for block in response.iter_content(BLOCK):
                    count += len(block)
                    if count > most:
                        raise InputError(f"{url}: larger than {most:,} bytes")
                    handle.write(block)
                    advance(len(block))
    except Exception as error:  # a server's headers may raise more than requests names
        is_of_disk = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
        if is_of_disk or isinstance(error, InputError):
            raise
        raise DownloadError(type(error).__name__) from error
