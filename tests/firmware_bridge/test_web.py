"""The web page in a browser: its logits are the reference's, the microphone works, and nothing is asked of anybody."""

import base64
import dataclasses
import functools
import http.server
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.browser import Watched, browser_or_skip, overflow, violations
from tests.conftest import REAL_DATA
from tests.deploy.decoded import read_clips
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.web import (
    MODULES,
    PAGE,
    join_modules,
    make_page,
    marked_bands,
    page_hop,
    render_card,
    write_site,
)

FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
RATE = 32_000


@pytest.fixture(scope="module")
def sounds(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One recording of the sample dataset after the other, in many kinds of files."""
    folder = tmp_path_factory.mktemp("sounds")
    paths = sorted((sample / "audio").glob("*-a.*"))[::5][:3]
    sound = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths])
    loud = sound / np.abs(sound).max()
    two = np.stack([loud, np.roll(loud, 99)], axis=1)
    kinds: dict[str, tuple[NDArray[Any], int, str]] = {
        "32k.wav": (loud[: 2 * RATE], RATE, "PCM_16"),
        "44k1.wav": (sound, 44_100, "PCM_16"),
        "44k1.flac": (loud[:-10_000], 44_100, "PCM_16"),
        "48k stereo ß.flac": (two[:100_000], 48_000, "PCM_24"),
        "48k stereo 16.wav": (two[:100_000], 48_000, "PCM_16"),
        "22k05 float.wav": (1.3 * loud[:30_000], 22_050, "FLOAT"),
        "8k 8 bits.wav": (loud[:10_000], 8_000, "PCM_U8"),
        "16k 24 bits.wav": (loud[:5_000], 16_000, "PCM_24"),
    }
    for name, (samples, rate, subtype) in kinds.items():
        soundfile.write(folder / name, samples, rate, subtype=subtype)
    return {name: folder / name for name in kinds}


@dataclass
class Site:
    folder: Path
    made: dict[str, Any]
    browser: Any
    url: str

    def open(self, url: str | None = None, script: str = "", **context: Any) -> Watched:
        """The page, ready, after `script` has run in it."""
        watched = Watched(self.browser, **context)
        watched.page.add_init_script(script)
        watched.page.goto(url or self.url)
        watched.page.wait_for_selector("#status:text-is('Ready.')")
        return watched


@pytest.fixture(scope="module")
def microphone(sounds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone hears: a real recording where there are any."""
    recordings = sorted((REAL_DATA / "tau_mini" / "audio").glob("*-a.flac"))
    if not recordings:
        return sounds["44k1.wav"]
    path = tmp_path_factory.mktemp("microphone") / "real.wav"
    soundfile.write(path, *soundfile.read(recordings[0], dtype="int16"))
    return path


@pytest.fixture(scope="module")
def site(bundle: Bundle, microphone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    with browser_or_skip(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={microphone}") as browser:
        folder = tmp_path_factory.mktemp("web") / "a site"
        made = dataclasses.asdict(write_site(bundle, folder))
        yield Site(folder, made, browser, (folder / "index.html").as_uri())


@pytest.fixture(scope="module")
def opened(site: Site) -> Iterator[Watched]:
    """The page, open from the disk. No test may leave a fault on its console, or make it ask for anything."""
    watched = site.open()
    yield watched
    watched.close()


@pytest.fixture
def watched(opened: Watched, site: Site) -> Iterator[Watched]:
    yield opened
    assert opened.faults == []
    assert opened.requests == [site.url]


def saved(page: Any, give: Callable[[], object]) -> dict[str, Any]:
    """What the page saves of the file that it is given."""
    page.evaluate("document.getElementById('seconds').replaceChildren()")
    give()
    page.wait_for_selector("#seconds button")
    with page.expect_download() as download:
        page.click("#save")
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


def drop(page: Any, path: Path) -> None:
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([content, name]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [content, path.name],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


# files


def hold_logits(result: dict[str, Any], path: Path, bundle: Bundle) -> None:
    """Compare what the page saved of a file with the reference, bit for bit."""
    output = bundle.graph.output.q
    reference = BundleClassifier(bundle, "reference").logits(read_clips([path], RATE))
    expected = np.rint(reference / np.float32(output.scale) + output.zero_point)
    np.testing.assert_array_equal([second["logits"] for second in result["seconds"]], expected)


@pytest.mark.parametrize("index", range(8))
def test_a_files_logits_are_the_references_bit_for_bit(
    index: int, watched: Watched, sounds: dict[str, Path], bundle: Bundle
) -> None:
    path = list(sounds.values())[index]
    result = saved(watched.page, lambda: watched.page.set_input_files("#file", path))
    hold_logits(result, path, bundle)
    assert result["model"] == bundle.metadata["graph_sha256"]


def test_a_browser_without_vectors_gives_the_same_logits(site: Site, sounds: dict[str, Path], bundle: Bundle) -> None:
    script = """
        WebAssembly.validate = () => false;
        const instantiate = WebAssembly.instantiate;
        WebAssembly.instantiate = (bytes) => { window.moduleBytes = bytes.length; return instantiate(bytes); };
    """
    watched = site.open(script=script)
    path = sounds["32k.wav"]
    hold_logits(saved(watched.page, lambda: watched.page.set_input_files("#file", path)), path, bundle)
    sizes = [len(base64.b64decode(text)) for text in watched.page.evaluate("JSON.parse(model.textContent).wasm")]
    assert watched.page.evaluate("moduleBytes") == sizes[1] != sizes[0]
    assert watched.faults == []
    watched.close()


def test_a_dropped_real_recordings_logits_are_the_references(watched: Watched, tau_mini: Path, bundle: Bundle) -> None:
    for path in sorted((tau_mini / "audio").glob("*.flac"))[::400]:
        hold_logits(saved(watched.page, lambda path=path: drop(watched.page, path)), path, bundle)


def test_a_dropped_file_gives_what_the_command_line_says_of_it(
    watched: Watched, sounds: dict[str, Path], bundle: Bundle
) -> None:
    path = sounds["44k1.flac"]
    result = saved(watched.page, lambda: drop(watched.page, path))
    expected = BundleClassifier(bundle, "reference").classify(path)
    assert (result["file"], result["scene"], result["notes"]) == (path.name, expected["scene"], expected["notes"])
    assert [each["start"] for each in result["seconds"]] == [each["start"] for each in expected["seconds"]]
    for ours, theirs in zip([result, *result["seconds"]], [expected, *expected["seconds"]], strict=True):
        assert ours["scene"] == theirs["scene"]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
    shown = watched.page.inner_text("#scene").lower()
    assert shown == expected["scene"].replace("_", " ")
    assert "padded to one second" in watched.page.inner_text("#status")


def test_the_picture_is_the_features_that_the_device_computes(
    watched: Watched, sounds: dict[str, Path], bundle: Bundle
) -> None:
    path, source = sounds["32k.wav"], bundle.graph.input.q
    saved(watched.page, lambda: watched.page.set_input_files("#file", path))
    watched.page.click("#seconds li:nth-child(3) button")  # the first is for the whole file
    assert watched.page.inner_text("#about").endswith("1 to 2 s")
    pixels = watched.page.evaluate(
        """() => {
            const canvas = document.getElementById("picture");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, [...new Uint32Array(data.buffer)]];
        }"""
    )
    features = FixedPointLogMel(bundle.front_end, source.scale, source.zero_point)(read_clips([path], RATE)[1:])[0]
    assert tuple(pixels[:2]) == features.shape
    drawn = np.reshape(pixels[2], features.shape)[::-1]  # (mel, frame): the lowest band lies at the bottom
    pairs = set(zip(drawn.ravel().tolist(), features.ravel().tolist(), strict=True))
    assert len(pairs) == len({colour for colour, _ in pairs}) == len({value for _, value in pairs})


def test_each_second_can_be_looked_at(watched: Watched, sounds: dict[str, Path]) -> None:
    result = saved(watched.page, lambda: watched.page.set_input_files("#file", sounds["44k1.wav"]))
    buttons = watched.page.query_selector_all("#seconds button")
    assert [each.get_attribute("aria-pressed") for each in buttons] == ["true", "false", "false", "false"]
    for button, each in zip(buttons, [result, *result["seconds"]], strict=True):
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == "true"
        shares = watched.page.locator("#scores .share").all_inner_texts()
        assert shares == [f"{100 * score:.0f} %" for score in each["scores"].values()]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "empty.wav: the file is empty."),
        ("words.txt", b"no sound at all", "words.txt: not an audio file that this browser can read: try WAV or FLAC."),
        ("cut.flac", b"fLaC\0\0\0\x22\x10\0", "cut.flac: not an audio file that this browser can read"),
        ("slow.wav", "1 Hz", "slow.wav: its sample rate of 1 Hz cannot be used."),
        ("none.wav", "no samples", "none.wav: "),
        ("nan.wav", "nan", "nan.wav: holds NaN or infinite samples."),
    ],
)
def test_a_bad_file_is_said_to_be_one_and_the_page_goes_on(
    name: str, content: bytes | str, message: str, watched: Watched, sounds: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / name
    samples = {"1 Hz": np.zeros(9), "no samples": np.zeros(0), "nan": np.full(9000, np.nan, np.float32)}
    if isinstance(content, str):
        subtype = "FLOAT" if content == "nan" else "PCM_16"
        soundfile.write(path, samples[content], 1 if content == "1 Hz" else 8000, subtype=subtype)
    else:
        path.write_bytes(content)
    page = watched.page
    page.set_input_files("#file", path)
    page.wait_for_selector("#status.fault")
    assert page.inner_text("#status").startswith(message)
    assert not page.is_visible("#seconds")
    page.set_input_files("#file", sounds["8k 8 bits.wav"])
    page.wait_for_selector("#seconds button")
    assert page.query_selector("#status.fault") is None


def test_a_format_without_a_header_that_is_known_is_classified_with_a_note(
    watched: Watched, sounds: dict[str, Path], tmp_path: Path
) -> None:
    samples, rate = soundfile.read(sounds["44k1.wav"])
    soundfile.write(tmp_path / "sound.ogg", samples, rate)
    result = saved(watched.page, lambda: watched.page.set_input_files("#file", tmp_path / "sound.ogg"))
    assert len(result["seconds"]) == 3
    assert "may differ a little" in " ".join(result["notes"])


# the microphone


def test_the_microphone_is_heard_and_decided_on_until_it_is_stopped(watched: Watched) -> None:
    page = watched.page
    page.evaluate("document.getElementById('about').textContent = ''")
    page.click("#listen")
    page.wait_for_selector("#about:text('the last second')")
    assert page.inner_text("#status") == "Listening at 32,000 Hz. A decision every 0.25 s."
    assert page.evaluate("document.getElementById('level').value") > 0
    shares = [int(text.split()[0]) for text in page.locator("#scores .share").all_inner_texts()]
    assert 95 <= sum(shares) <= 105
    assert re.fullmatch(r"\d+ %, the last second", page.inner_text("#about"))
    assert re.fullmatch(r"\d+\.\d ms", page.inner_text("#time"))
    picture = page.evaluate("document.getElementById('picture').toDataURL()")
    assert len(picture) > 5000, "silence is but one colour, and its file small"
    page.click("#listen")
    assert page.inner_text("#status") == "The microphone is off."
    assert page.get_attribute("#listen", "aria-pressed") == "false"


def test_a_microphone_at_another_rate_is_resampled_in_the_page(site: Site) -> None:
    script = """
        const Context = AudioContext;
        window.AudioContext = class extends Context {
            constructor(options) {
                if (options.sampleRate) throw new DOMException("as Firefox has it", "NotSupportedError");
                super({ sampleRate: 44100 });
            }
        };
    """
    watched = site.open(script=script)
    watched.page.click("#listen")
    watched.page.wait_for_selector("#about:text('the last second')")
    assert "Listening at 44,100 Hz, resampled here to 32,000 Hz." in watched.page.inner_text("#status")
    assert watched.faults == []
    watched.close()


def test_a_page_that_cannot_keep_up_lets_sound_go_and_says_so(site: Site) -> None:
    watched = site.open()
    watched.page.click("#listen")
    watched.page.wait_for_selector("#about:text('the last second')")
    watched.page.evaluate("{ const start = performance.now(); while (performance.now() - start < 3000); }")
    watched.page.wait_for_selector("#status.fault")
    assert "some audio was skipped" in watched.page.inner_text("#status")
    watched.close()


@pytest.mark.parametrize(
    ("refusal", "message"),
    [("NotAllowedError", "was not allowed"), ("NotFoundError", "no microphone was found"), ("Else", "cannot be used")],
)
def test_a_microphone_that_is_refused_is_said_to_be(refusal: str, message: str, site: Site) -> None:
    script = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('no', '{refusal}'); }};"
    watched = site.open(script=script)
    watched.page.click("#listen")
    watched.page.wait_for_selector("#status.fault")
    assert message in watched.page.inner_text("#status")
    assert watched.faults == []
    watched.close()


# what the page asks for, and how it looks


def test_from_a_server_the_page_is_all_that_is_asked_for(site: Site, sounds: dict[str, Path]) -> None:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            asked.append(self.path)
            return super().send_head()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site.folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        watched = site.open(f"http://127.0.0.1:{server.server_port}/")
        watched.page.set_input_files("#file", sounds["44k1.wav"])
        watched.page.wait_for_selector("#seconds button")
        watched.page.click("#listen")
        watched.page.wait_for_selector("#listen[aria-pressed=true]")
        assert (watched.faults, asked) == ([], ["/"])
        watched.close()
    finally:
        server.shutdown()
        server.server_close()


ATTEMPTS = {
    "fetch": "fetch(url)",
    "import": "import(url)",
    "image": "new Promise((yes, no) => Object.assign(new Image(), { onload: yes, onerror: no, src: url }))",
    "request": """new Promise((yes, no) => {
        const request = Object.assign(new XMLHttpRequest(), { onload: yes, onerror: no });
        request.open("POST", url);
        request.send("sound");
    })""",
    "socket": """new Promise((yes, no) =>
        Object.assign(new WebSocket(url.replace("http", "ws")), { onopen: yes, onerror: no }))""",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_the_page_could_not_send_anything_if_it_would(attempt: str, site: Site) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watched = site.open()
    url = f"http://127.0.0.1:{server.server_port}/x"
    try:
        sent = watched.page.evaluate(f"(url) => Promise.resolve({attempt}).then(() => 'sent', () => 'refused')", url)
        assert (sent, asked) == ("refused", [])
        assert any("Content Security Policy" in fault for fault in watched.faults)
    finally:
        watched.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (768, "dark"), (1280, "light")])
def test_the_page_fits_its_window_and_a_checker_of_accessibility_finds_nothing(
    width: int, scheme: str, site: Site, sounds: dict[str, Path]
) -> None:
    watched = site.open(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    page = watched.page
    assert violations(page) == []
    page.set_input_files("#file", sounds["44k1.wav"])
    page.wait_for_selector("#seconds button")
    page.click("summary")
    assert violations(page) == []
    assert overflow(page) == 0
    watched.close()


def test_all_of_it_is_within_reach_of_the_keyboard(watched: Watched, sounds: dict[str, Path]) -> None:
    saved(watched.page, lambda: watched.page.set_input_files("#file", sounds["44k1.wav"]))
    watched.page.click("h1")
    reached = []
    for _ in range(8):
        watched.page.keyboard.press("Tab")
        reached.append(watched.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert reached[:2] == ["listen", "file"]
    assert [each.split(":")[0] for each in reached[2:6]] == ["all", "0 to 1 s", "1 to 2 s", "2 to 3 s"]
    assert reached[6:] == ["save", "Model card"]


def test_bars_move_only_for_those_who_want_motion(site: Site) -> None:
    for motion, duration in (("reduce", "0s"), ("no-preference", "0.18s")):
        watched = site.open(reduced_motion=motion)
        assert watched.page.evaluate("getComputedStyle(document.querySelector('.bar')).transitionDuration") == duration
        watched.close()


def test_the_foot_of_the_page_says_what_runs_and_whose_it_is(watched: Watched, bundle: Bundle) -> None:
    foot = watched.page.inner_text("footer")
    assert f"{bundle.content['budget']['parameters']:,} parameters" in foot
    assert bundle.metadata["graph_sha256"][:16] in foot
    assert "Apache License 2.0" in foot
    watched.page.evaluate("document.querySelector('details').open = true")
    card = (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    sections = [title.strip("# ") for title in card.splitlines() if title.startswith("## ")]
    assert "Licence" in sections
    assert watched.page.locator("footer details h4").all_inner_texts() == sections
    assert "license_name" not in watched.page.inner_text("footer"), "what only hubs read"


# the parts


def test_modules_are_joined_in_an_order_in_which_each_finds_what_it_imports() -> None:
    sources = {name: (PAGE / name).read_text() for name in MODULES}
    known = {"tinyscene.mjs"}
    for name, text in sources.items():
        assert set(re.findall(r'from "\./(\w+\.mjs)"', text)) <= known
        known.add(name)
    assert {path.name for path in PAGE.glob("*.mjs")} == set(MODULES)
    assert not re.search(r"^(import|export)\b", join_modules(list(sources.values())), re.MULTILINE)


def test_the_page_of_a_hostile_bundle_runs_nothing_of_it(bundle: Bundle, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    (tmp_path / "MODEL_CARD.md").write_text(f"# {evil}\n\n{evil}\n\n[link](javascript:alert(1))\n")
    content = bundle.content | {"recipe": bundle.content["recipe"] | {"name": evil}}
    page = make_page(replace(bundle, folder=tmp_path, content=content, labels=(evil, *bundle.labels[1:])), [b""], "")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert 'href="javascript' not in page


def test_a_card_brings_no_style_and_no_heading_above_the_pages_own() -> None:
    html = render_card("# One\n\n## Two\n\n| a | b |\n|---|---:|\n| 1 | 2 |\n")
    assert "<h3>One</h3>" in html
    assert "<h4>Two</h4>" in html
    assert "<td>2</td>" in html


@pytest.mark.parametrize(
    ("front_end", "hop"),
    [
        (FrontEnd(), 0.25),
        (FrontEnd(hop_length=320), 0.25),
        (FrontEnd(hop_length=1024), 0.256),
        (FrontEnd(hop_length=32_000), 1),
    ],
)
def test_the_microphone_is_decided_on_every_quarter_second_or_what_frames_allow(
    front_end: FrontEnd, hop: float
) -> None:
    assert page_hop(front_end) == hop


def test_frequencies_are_marked_where_their_bands_are() -> None:
    marks = {mark["hertz"]: mark["place"] for mark in marked_bands(FrontEnd())}
    mel = {hertz: np.log10(1 + hertz / 700) for hertz in marks}
    assert {0, 1000, 16_000} <= set(marks)
    for hertz, place in marks.items():
        assert place == pytest.approx(mel[hertz] / mel[16_000], abs=0.005)


# the command


def test_the_command_writes_a_folder_and_says_what_is_in_it(
    site: Site, bundle: Bundle, run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = run_cli("web", bundle.folder, "--out", tmp_path / "site", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["files"] == sorted(path.name for path in (tmp_path / "site").iterdir())
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "site").iterdir())
    for name in found["files"]:
        assert (tmp_path / "site" / name).read_bytes() == (site.folder / name).read_bytes(), "the same, made twice"


def test_bad_input_gets_one_line_and_leaves_nothing(
    bundle: Bundle, run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for folder, out, message in (
        (tmp_path, tmp_path / "site", f"holds no {INDEX}"),
        (bundle.folder, tmp_path / "full", "already exists and is not empty"),
    ):
        code, said, fault = run_cli("web", folder, "--out", out)
        assert (code, said, fault.count("\n")) == (2, "", 1)
        assert message in fault
    assert not (tmp_path / "site").exists()


def test_what_is_not_installed_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    with pytest.raises(InputError, match=r"pip install .*\[web\]'"):
        make_page(bundle, [b""], "")
