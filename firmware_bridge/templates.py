"""Jinja templates and other files in packages/, from which READMEs, manifests, sketches and the web page are generated.

files = render_folder("arduino", {"version": "1.0.0", ...})      # path -> text
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TEMPLATES = Path(__file__).parent / "packages"
SUFFIX = ".j2"  # of a template; other files are copied unchanged

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=select_autoescape(enabled_extensions=(f"html{SUFFIX}",)),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, values: Mapping[str, Any]) -> str:
    """The text of one template, named by its path in packages/."""
    return _environment.get_template(name).render(values)


def render_folder(folder: str, values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """All files of a folder in packages/, templates rendered, by their paths in it with `prefix` before them."""
    paths = sorted(path for path in (TEMPLATES / folder).rglob("*") if path.is_file())
    files = {}
    for path in paths:
        name = path.relative_to(TEMPLATES).as_posix()
        text = render(name, values) if name.endswith(SUFFIX) else path.read_text(encoding="utf-8")
        files[prefix + path.relative_to(TEMPLATES / folder).as_posix().removesuffix(SUFFIX)] = text
    return files


def license_text() -> str:
    """The license of everything that is generated."""
    return (TEMPLATES / "LICENSE").read_text(encoding="utf-8")
