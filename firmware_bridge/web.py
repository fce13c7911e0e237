"""`tinyscene web`: write a page that classifies sound in the browser, opened from disk or from any static server.

    site = write_site(bundle, Path("site"))         # site/index.html and a license

The page is one file. It embeds the firmware's C compiled to WebAssembly, the weights, the style and the JavaScript
modules of packages/web/, because a page opened from disk may load no other files. Its Content-Security-Policy forbids
every connection and every script except its own, which it names by hash. `data:` is allowed for the AudioWorklet, which
must have a URL.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import CARD
from tinyscene.deploy.common.files import replacing_folder, require_free
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.frontend.log_mel import ONE_SECOND, FrontEnd
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.packaging import WASM_KERNELS, WASM_MODULES, package
from tinyscene.firmware_bridge.templates import TEMPLATES, license_text, render

PAGE = TEMPLATES / "web"
# Each module may import names from those before it.
MODULES = ("resample.mjs", "header.mjs", "recording.mjs", "microphone.mjs", "picture.mjs", "page.mjs")
HOP = 0.25  # seconds between decisions on the microphone, about
MARKED = (0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz, named beside the picture
APART = 0.06  # minimum distance of two marks, as a share of the picture's height


@dataclass(frozen=True)
class Site:
    """What was written."""

    folder: str
    files: list[str]
    bytes: int
    wasm_bytes: int  # of the module with vectors
    hop_seconds: float


def write_site(bundle: Bundle, out: Path) -> Site:
    """Write the folder, whole or not at all.

    Raises InputError if the folder is not empty or a tool that builds the page is not installed.
    """
    require_free(out)
    hop = page_hop(bundle.front_end)
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, WASM_KERNELS, hop, rule=bundle.rule)
    wasm_package = package(library, "wasm", metadata.version("tinyscene"))
    modules = [content for name in WASM_MODULES if isinstance(content := wasm_package[name], bytes)]
    page = make_page(bundle, modules, str(wasm_package["tinyscene.mjs"]))
    files = {"index.html": page.encode(), "LICENSE": license_text().encode()}
    with replacing_folder(out) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
    return Site(str(out), sorted(files), sum(map(len, files.values())), len(modules[0]), hop)


def page_hop(front_end: FrontEnd) -> float:
    """Seconds between decisions on the microphone: the whole number of frames that is nearest to HOP."""
    frames = max(1, round(HOP * front_end.sample_rate / front_end.hop_length))
    return min(front_end.clip_seconds, frames * front_end.hop_length / front_end.sample_rate)


def make_page(bundle: Bundle, modules: Sequence[bytes], binding: str) -> str:
    """The HTML, with the WebAssembly `modules` and their JavaScript `binding` embedded.

    The browser runs the first module that it knows all instructions of.
    """
    graph, seconds = bundle.metadata["graph_sha256"], bundle.front_end.clip_seconds
    script = join_modules([binding, *((PAGE / name).read_text(encoding="utf-8") for name in MODULES)])
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    model = {
        "graph": graph,
        "hop": page_hop(bundle.front_end),
        "clip": seconds,
        "samples": bundle.front_end.clip_samples,
        "bands": marked_bands(bundle.front_end),
        "wasm": [base64.b64encode(module).decode() for module in modules],
        "worklet": f"data:text/javascript;base64,{base64.b64encode((PAGE / 'worklet.js').read_bytes()).decode()}",
    }
    values = {
        "name": bundle.content["recipe"].get("name", "tinyscene"),
        "labels": [label.replace("_", " ") for label in bundle.labels],
        "clip": "second" if seconds == ONE_SECOND else f"{seconds:g} seconds",
        "mels": bundle.front_end.n_mels,
        "frames": bundle.front_end.frames,
        "budget": bundle.content["budget"],
        "made_by": bundle.content["quantized"].get("made_by", {"versions": {}, "git": None}),
        "graph": graph,
        "wasm_bytes": len(modules[0]),
        "policy": policy(script, style),
        "style": style,
        "script": script,
        "model": json.dumps(model).replace("<", "\\u003c"),
        "card": render_card((bundle.folder / CARD).read_text(encoding="utf-8")),
    }
    return render("web/index.html.j2", values)


def render_card(card: str) -> str:
    """Markdown as HTML that is safe on the page: no raw HTML, no style, headings below the page's own.

    Raises InputError if markdown-it-py is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise missing("markdown_it", "web") from None

    markdown = MarkdownIt("js-default")
    tokens = markdown.parse(
        re.sub(r"\A---\n.*?^---\n", "", card, flags=re.DOTALL | re.MULTILINE)
    )  # front matter is for model hubs
    for index, token in enumerate(tokens):
        token.attrs.pop("style", None)  # the alignment of a table's cells, which the page's policy forbids
        if token.type.startswith("heading"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
        if token.type == "th_open" and not tokens[index + 1].content:  # an empty header cell
            token.tag = tokens[index + 2].tag = "td"
    return markdown.renderer.render(tokens, markdown.options, {})


def join_modules(modules: list[str]) -> str:
    """Join modules, each of which imports only from those before it, into the one script that a page may hold."""
    script = "\n".join(modules)
    script = re.sub(r'^import \{[^}]*\} from "\./\w+\.mjs";\n', "", script, flags=re.MULTILINE)
    return re.sub(r"^export ", "", script, flags=re.MULTILINE)


def policy(script: str, style: str) -> str:
    """A Content-Security-Policy that allows the page's own script and style, and no connections."""
    allowed = {
        "default-src": "'none'",
        "script-src": f"{_source(script)} 'wasm-unsafe-eval' data:",
        "style-src": _source(style),
        "img-src": "data:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in allowed.items())


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def marked_bands(front_end: FrontEnd) -> list[dict[str, float]]:
    """Frequencies (Hz) to name beside the picture, and how far up each one's band is, 0 to 1."""
    centres = front_end.mel_edges()[1:-1]
    marks: list[dict[str, float]] = []
    for hertz in reversed(MARKED):
        if not front_end.f_min <= hertz <= front_end.top_frequency:
            continue
        place = np.searchsorted(centres, hertz) / len(centres)
        if not marks or marks[-1]["place"] - place >= APART:
            marks.append({"hertz": hertz, "place": float(place)})
    return marks
