"""Bundles on the Hugging Face hub: hf://user/name, or hf://user/name@revision.

    push(Bundle("bundles/mine"), "hf://user/name")
    fetch_bundle("hf://user/name@1f2e3d...")

A repository holds the files of a bundle as they are, and README.md: its model card with the header that the hub reads.
What is fetched is kept in the cache by its commit and checked as every bundle: names, sizes and hashes. The hub's own
environment variables are obeyed: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.copies import copy_bundle
from tinyscene.deploy.bundle.index import CARD, EXPORTS, INDEX, MAX_FILE, MAX_INDEX, PARTS, VARIANTS
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, replacing_folder, temporary_folder, write_whole
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.terminal import notice

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
OF_A_BUNDLE = {INDEX, *PARTS, *EXPORTS.values()}
MAX_FILES, MAX_BYTES = 500, 2**28  # of a bundle with its variants


def push(bundle: Bundle, address: str, licence: str | None = None, private: bool = False) -> str:
    """Write a bundle and its model card into a repository of the hub, which is made if it is missing.

    Args:
        bundle: the bundle.
        address: hf://user/name.
        licence: the hub's name of a licence, such as apache-2.0; by default that of the model card.
        private: make a new repository private.

    Returns the address with the commit that was made. Raises InputError where the hub cannot be reached or refuses.
    """
    repository, revision = _parse(address)
    if revision:
        raise InputError(f"{address}: a push makes a revision; leave @{revision} out")
    api = _hub()
    with temporary_folder() as folder, _named(address):
        staged = folder / "bundle"
        copy_bundle(bundle, staged)
        write_whole(staged / "README.md", hub_card(bundle, licence))
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=repository, folder_path=staged, commit_message="Write a bundle of tinyscene", delete_patterns="*"
        )
    return f"{SCHEME}{repository}@{made.oid}"


def hub_card(bundle: Bundle, licence: str | None) -> str:
    """The model card of a bundle, whose header is what the hub reads; `licence` in place of the one in it."""
    text = (bundle.folder / CARD).read_text(encoding="utf-8")
    if licence is None:
        return text
    from huggingface_hub import ModelCard

    card = ModelCard(text, ignore_metadata_errors=False)
    card.data["license"] = licence
    card.data.pop("license_name", None)
    return str(card)


def fetch_bundle(address: str) -> Path:
    """The folder of a bundle of the hub, fetched unless it is in the cache. Raises InputError if it cannot be trusted.

    Without a commit in the address, the one that it stands for now is looked up and said.
    """
    repository, revision = _parse(address)
    folder = hub_folder() / repository.replace("/", "--")
    if revision and COMMIT.fullmatch(revision) and (folder / revision / INDEX).is_file():
        return folder / revision
    api = _hub()
    with _named(address):
        info = api.model_info(repository, revision=revision, files_metadata=True)
        names = _files_of_a_bundle(address, info.siblings or [])
        commit = str(info.sha)
        if not COMMIT.fullmatch(commit):
            raise InputError(f"{address}: the hub names no commit")
        if revision != commit:
            notice(f"{address} stands for {SCHEME}{repository}@{commit}")
        if not (folder / commit / INDEX).is_file():
            with replacing_folder(folder / commit) as temporary:
                for name in names:
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(api.hf_hub_download(repository, name, revision=commit), temporary / name)
                opened = open_bundle(temporary)
                for device in opened.variants:
                    opened.variant(device)
    return folder / commit


def hub_folder() -> Path:
    """Where fetched bundles are kept."""
    return cache_folder() / "hub"


def _files_of_a_bundle(address: str, siblings: list[Any]) -> list[str]:
    """The names of those files of a repository that a bundle has. Raises InputError for none, and for large ones."""
    sizes = {}
    for sibling in siblings:
        *folders, name = str(sibling.rfilename).split("/")
        is_variant = folders[:1] == [VARIANTS] and len(folders) > 1 and folders[1] not in ("", ".", "..")
        own = "/".join([*folders[2:], name]) if is_variant else "/".join([*folders, name])
        if own in OF_A_BUNDLE:
            sizes[str(sibling.rfilename)] = int(sibling.size or 0)
    if INDEX not in sizes:
        raise InputError(f"{address}: holds no bundle (no {INDEX})")
    wrong = [name for name, size in sizes.items() if not 0 <= size <= (MAX_INDEX if name == INDEX else MAX_FILE)]
    if wrong or len(sizes) > MAX_FILES or sum(sizes.values()) > MAX_BYTES:
        raise InputError(
            f"{address}: {wrong[0] if wrong else 'all its files together'}: not of a size that a bundle can have"
        )
    return list(sizes)


def _parse(address: str) -> tuple[str, str | None]:
    """Repository and revision. Raises InputError for another form."""
    match = ADDRESS.fullmatch(address)
    if not match or ".." in address:
        raise InputError(f"{address}: must be hf://user/name or hf://user/name@revision")
    return match["repository"], match["revision"]


def _hub() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise missing("huggingface_hub", "hub") from None
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="tinyscene")


@contextlib.contextmanager
def _named(address: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line: its exceptions, and those of its transport, share no base.

    A panic of its parts in Rust, as on a disk that takes no log, is not even an Exception.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if isinstance(error, InputError) or getattr(error, "errno", None) is not None:
            raise
        raise InputError(f"{address}: {_first_line(error)}") from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise InputError(f"{address}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the hub cannot be used ({type(error).__name__}: {' '.join(lines)[:200]})"
