"""What is not installed, and the command that installs it, as this copy of tinyscene was installed."""

import importlib.util
import json
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tinyscene.deploy.common.errors import InputError


class MissingPackageError(InputError):
    """A package that is not installed."""


def missing(package: str, extra: str = "", what: str = "") -> MissingPackageError:
    """The error for a package that `what` (an option, a format) needs and `extra` installs, or tinyscene itself."""
    prefix = f"{what}: " if what else ""
    return MissingPackageError(f"{prefix}{package} is not installed: pip install {requirement(extra)}")


def require(package: str, extra: str) -> None:
    """Raise MissingPackageError if a package that `extra` installs is missing. Does not import it."""
    if importlib.util.find_spec(package) is None:
        raise missing(package, extra)


def requirement(extra: str) -> str:
    """What pip is to install for an extra: the checkout or the wheel that this copy comes from."""
    extras = f"[{extra}]" if extra else ""
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return f"-e '{'.' if root == Path.cwd() else root}{extras}'"
    installed = metadata.distribution("tinyscene")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")  # which pip writes (PEP 610)
    url = origin.get("url", "")
    if url.startswith("file:"):
        return f"'{url2pathname(urlsplit(url).path)}{extras}'"
    if url:
        vcs = origin.get("vcs_info", {}).get("vcs")
        return f"'tinyscene{extras} @ {f'{vcs}+{url}' if vcs else url}'"
    return f"'tinyscene-{installed.version}-py3-none-any.whl{extras}'"
