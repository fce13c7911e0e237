"""The report's page: its figures are those of the bundle and the sweep, it trusts neither, and everyone can read it."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tests import ROOT
from tests.browser import Watched, browser_or_skip, overflow, violations
from tests.train.test_sweep_report import drawn, failed, section, write
from tinyscene.benchmarks.report import CONTENT, MARKDOWN, PAGE, write_report
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.bundle.inspection import inspect_graph
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.runs.evaluate import record, score
from tinyscene.train.sweep.published import PUBLISHED_CLASSES, PUBLISHED_DEVICES
from tinyscene.train.sweep.report import report as report_sweep

RESULTS = ROOT / "benchmarks" / "results"
HOSTILE = "<script>fetch('//x')</script><img src=x onerror=alert(1)>|$x_{$ {{ 1 }} \"' --> `*[a](b)"

FRONT_END = {"median_ms": 1.25, "p25_ms": 1.125, "p75_ms": 1.5, "cpu_ms": 1.0, "rounds": 200}
DECISION = {"other": FRONT_END, "native int8": FRONT_END | {"median_ms": 0.5, "p25_ms": 0.5, "p75_ms": 0.5}}
ACCURACY = {
    "float": {"macro_accuracy": 0.5125, "macro_interval": [0.4875, 0.5375], "runner": "litert"},
    "int8": {"macro_accuracy": 0.5, "macro_interval": [0.475, 0.525], "runner": "native"},
    "difference": {"macro_accuracy": -0.0125, "macro_interval": [-0.025, 0.005]},
    "clips": 1088,
    "recordings": 136,
    "coverage": 95,
    "draws": 10_000,
    "data_hash": "d" * 64,
}
Lines = list[list[str]]
Run = Callable[..., tuple[int, str, str]]


class Document(HTMLParser):
    """A page: its tables by caption, its text, and what could do harm."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, Lines] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self._open: list[str] = []
        self._lines: Lines = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self._lines, self._caption = [], ""
        elif tag == "tr":
            self._lines.append([])
        elif tag in ("td", "th"):
            self._lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self.tables[self._caption] = self._lines

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.said += data
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self._lines[-1][-1] += data

    def table(self, caption: str) -> dict[str, list[str]]:
        """The lines of the one table whose caption begins so, by their first cell; the header's is \"\"."""
        (found,) = [lines for name, lines in self.tables.items() if name.startswith(caption)]
        return {("" if number == 0 else line[0]): line[1:] for number, line in enumerate(found)}

    def alt(self, beginning: str) -> str:
        labels = [each.get("aria-label") or "" for _, each in self.elements if each.get("role") == "img"]
        (found,) = [label for label in labels if label.startswith(beginning)]
        return found


def number(cell: str) -> float:
    return float(cell.replace(",", "").split(" ")[0])


def record_metrics(folder: Path, labels: tuple[str, ...] = SCENES) -> None:
    """As `evaluate` does, of answers by chance."""
    rng = np.random.default_rng(7)
    truth = np.arange(200) % len(labels)
    devices = np.array([("a", "s1", "s4")[each // 10 % 3] for each in range(200)])
    scores = rng.dirichlet(np.ones(len(labels)), 200) + 0.3 * np.eye(len(labels))[truth]
    result = score(scores / scores.sum(1, keepdims=True), truth, devices, labels)
    record(folder, result, {"data_hash": "d" * 64, "split": "25", "runner": "native"})


def record_bench(folder: Path) -> None:
    """Figures that were measured of another network, with as many layers as this one has."""
    bundle, measured = open_bundle(folder), json.loads((RESULTS / "firmware.json").read_text())["devices"]
    layers = [1_000_003 * (index + 1) for index in range(len(bundle.graph.operators))]
    board = {"kind": "board", "unit": "cycles", "network_ms": 12.5, "clips": 2, "equal": True}
    targets = {
        "riscv32": measured["riscv32 zig O2 plain"] | {"layers": None},
        "cortex-m4": measured["cortex-m4 zig O2 dsp"] | {"layers": layers},
        "/dev/ttyACM0": board,
        "cortex-m55": {"missing": "no emulator"},
    }
    latency = json.loads((RESULTS / "latency.json").read_text())["latency"]
    front_end = {"native int8": FRONT_END}
    found = {"decision": DECISION, "latency": latency, "front_end": front_end, "targets": targets, "accuracy": ACCURACY}
    found |= {"machine": {"cpu": "a <processor>"}, "warnings": ["it was busy"], "missing": {"tflite-micro": "no wheel"}}
    bundle.record("bench", found)


@pytest.fixture(scope="module")
def measured(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with all records. Not to be changed."""
    folder = tmp_path_factory.mktemp("measured") / "first"
    shutil.copytree(bundle.folder, folder)
    record_metrics(folder)
    record_bench(folder)
    return open_bundle(folder)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = drawn(("baseline", "student"), ("5", "100"), seeds=3)
    folder = tmp_path_factory.mktemp("sweep") / "one"
    folder.mkdir()
    return write(folder, [*rows, failed("micro", "5", 0, "killed by SIGKILL")])


@pytest.fixture(scope="module")
def written(measured: Bundle, sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report"
    write_report([measured.folder, sweep], out)
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> Document:
    return Document((written / PAGE).read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_or_skip() as found:
        yield found


def test_the_accuracies_are_the_recorded_ones(measured: Bundle, page: Document) -> None:
    metrics, table = measured.content["metrics"], page.table("Accuracy by class and recording device")
    assert table["all, macro-average"][2] == f"{100 * metrics['macro_accuracy']:.2f}"
    assert table["all"][:2] == ["200", str(metrics["correct"])]
    for key, title in (("by_class", "class"), ("by_device", "device"), ("by_device_group", "group")):
        assert metrics[key]
        for name, group in metrics[key].items():
            clips, correct, accuracy, loss = map(number, table[f"{title} {name}"][:4])
            assert (clips, correct) == (group["clips"], group["correct"])
            assert accuracy == pytest.approx(100 * correct / clips, abs=0.005)
            assert loss == pytest.approx(group["log_loss"], abs=0.0005)
            if key != "by_device_group":
                assert f"{name} {accuracy:.2f}" in page.alt("Accuracy in per cent: ")


def test_the_published_figures_stand_beside_with_a_word_on_what_they_are(page: Document) -> None:
    table = page.table("Accuracy by class and recording device")
    assert table[""][-1] == "published baseline, %"
    for scene, value in zip(SCENES, PUBLISHED_CLASSES["25"], strict=True):
        assert number(table[f"class {scene}"][-1]) == value
    assert number(table["device a"][-1]) == PUBLISHED_DEVICES["25"][0]
    assert "for orientation only" in page.said
    assert "arXiv:2405.10018" in page.said


def test_the_confusion_matrix_is_the_recorded_one(measured: Bundle, page: Document) -> None:
    table = page.table("Recordings by true class")
    assert table[""] == list(SCENES)
    found = [[number(cell) for cell in table[scene]] for scene in SCENES]
    assert found == measured.content["metrics"]["confusion"]
    assert sum(map(sum, found)) == 200


def test_the_layers_are_the_graphs_with_their_errors_and_instructions(measured: Bundle, page: Document) -> None:
    table, errors = page.table("Layers"), measured.content["errors"]
    instructions = [None, *measured.content["bench"]["targets"]["cortex-m4"]["layers"]]
    for row, count in zip(inspect_graph(measured.graph), instructions, strict=True):
        kind, shape, macs, size, counted, sqnr, alone = table[row.name]
        assert (kind, shape) == (row.kind, " \u00d7 ".join(map(str, row.shape[1:])))
        assert (number(macs), number(size), number(counted)) == (row.macs, row.bytes, count or 0)
        assert number(sqnr) == pytest.approx(errors[row.name]["sqnr_db"], abs=0.05)
        assert number(alone) == pytest.approx(errors[row.name]["alone"], abs=5e-5)
    budget = measured.content["budget"]
    assert [number(cell) for cell in table["total"][2:5]] == [
        budget["deployed_macs"],
        budget["deployed_bytes"],
        sum(instructions[1:]),
    ]


def test_the_budget_is_held_against_the_recipes_limits(measured: Bundle, page: Document) -> None:
    table, limits = page.table("Budget"), measured.content["recipe"]["budget"]
    budget = measured.content["budget"]
    macs, most, share, verdict = table["MACs for one second"]
    assert (number(macs), number(most), verdict) == (budget["macs"], limits["max_macs"], "holds")
    assert number(share) == pytest.approx(100 * budget["macs"] / limits["max_macs"], abs=0.05)
    assert number(table["bytes of weights and biases"][0]) == budget["deployed_bytes"]


def test_a_network_over_its_budget_is_said_to_exceed_it(measured: Bundle, tmp_path: Path) -> None:
    edited = copied(measured, tmp_path, lambda content: content["budget"].update(macs=30_000_001))
    write_report([edited], tmp_path / "out")
    assert Document((tmp_path / "out" / PAGE).read_text()).table("Budget")["MACs for one second"][-1] == "EXCEEDED"


def test_the_memory_is_what_the_firmware_takes(measured: Bundle, page: Document) -> None:
    library = make_library(measured.graph, measured.front_end, measured.labels)
    table = page.table("Blocks of the arena")
    for name, offset in library.plan.offsets.items():
        shown = table[name.strip("\t")]
        assert (number(shown[0]), number(shown[1])) == (offset, library.plan.blocks[name].bytes)
    assert len(table) == 1 + len(library.plan.offsets)
    assert f"{library.config['BYTES']:,} bytes of RAM" in page.said
    assert page.alt("Arena of ").startswith(f"Arena of {library.config['ARENA_BYTES']:,} bytes")


def test_the_latencies_are_the_recorded_ones_the_fastest_first(measured: Bundle, page: Document) -> None:
    latency, table = measured.content["bench"]["latency"], page.table("Latency of the network on the host")
    assert set(table) == {"", *latency}
    medians = []
    for name, cells in list(table.items())[1:]:
        known = latency[name]
        for cell, key in zip(cells[:3], ("median_ms", "p25_ms", "p75_ms"), strict=True):
            assert number(cell) == pytest.approx(known[key], abs=0.0005)
        medians.append(known["median_ms"])
        assert number(cells[3]) == pytest.approx(known["median_ms"] / medians[0], abs=0.005)
        assert f"{name} {cells[0]}" in page.alt("Median milliseconds: ")
    assert medians == sorted(medians)
    assert [*page.table("Latency of a decision")] == ["", "native int8", "other"]
    assert page.table("Latency of a decision")["other"] == ["1.250", "1.125", "1.500", "2.50", "200"]
    assert page.table("Latency of the front end")["native int8"] == ["1.250", "1.125", "1.500", "1.00", "200"]
    assert page.table("The machine")["cpu"] == ["a <processor>"]
    assert page.table("Runtimes not measured")["tflite-micro"] == ["no wheel"]
    assert "Warning: it was busy" in page.said


def test_what_the_integers_cost_stands_with_its_intervals(page: Document) -> None:
    table = page.table("Float and int8")
    assert table["float"] == ["51.25", "48.75", "53.75"]
    assert table["int8 - float"] == ["-1.25", "-2.50", "0.50"]
    assert "1,088 clips of 136 recordings. Intervals of 95 %" in page.said


def test_the_devices_are_the_recorded_ones_a_board_in_its_own_words(measured: Bundle, page: Document) -> None:
    targets = measured.content["bench"]["targets"]
    m4, table = targets["cortex-m4"], page.table("Targets: ")
    assert set(table) == {"", "riscv32", "cortex-m4"}
    cells = table["cortex-m4"]
    assert cells[3] == "yes"
    assert number(cells[4]) == pytest.approx(m4["instructions"] / 1e6, abs=0.005)
    assert number(cells[5]) == pytest.approx(m4["instructions_per_mac"], abs=0.005)
    assert number(cells[6]) == pytest.approx(m4["frontend_instructions"] / 1e6, abs=0.005)
    assert [number(cell) for cell in cells[7:]] == [m4["memory_bytes"], m4["stack_bytes"], m4["flash_bytes"]]
    assert number(table["riscv32"][4]) == pytest.approx(targets["riscv32"]["instructions"] / 1e6, abs=0.005)
    assert "not cycles" in page.said
    assert page.table("/dev/ttyACM0")["network_ms"] == ["12.5"]
    assert page.table("Targets not measured")["cortex-m55"] == ["no emulator"]


def test_the_provenance_is_the_indexs(measured: Bundle, page: Document) -> None:
    content, table = measured.content, page.table("Provenance")
    assert table["recipe"] == [content["recipe"]["name"]]
    assert table["calibration data"] == [content["quantized"]["data_hash"]]
    assert table["bundle, SHA-256 of its index"] == [measured.fingerprint]
    assert content["quantized"]["made_by"]["versions"]["torch"] in table["quantized by"][0]
    files = page.table("Files")
    assert {name: cells[0] for name, cells in files.items() if name} == content["files"]


def test_a_sweep_has_the_tables_of_its_own_report(sweep: Path, page: Document, tmp_path: Path) -> None:
    alone = tmp_path / "one"
    shutil.copytree(sweep, alone)
    report_sweep(alone)
    text = (alone / "report.md").read_text()
    own = section(text, "Split 100")
    del own["---"]
    assert page.table("Split 100: ") == own
    own = section(text, "Macro-average accuracy, %")
    del own["---"]
    assert page.table("Macro-average accuracy, %") == {"" if name == "run" else name: own[name] for name in own}
    assert page.table("Runs that are not done")["micro"][-1] == "killed by SIGKILL"


def test_every_network_is_in_the_table_of_the_frontier(measured: Bundle, sweep: Path, written: Path) -> None:
    content = json.loads((written / CONTENT).read_text())
    points = {(each["name"], each["split"]): each for each in content["frontier"]}
    assert points["first", "25"]["mean"] == measured.content["metrics"]["macro_accuracy"]
    for result in content["sweeps"][0]["results"]:
        assert points[result["run"], result["split"]]["mean"] == result["macro_accuracy"]["mean"]
    assert len(points) == 1 + 4 + 3  # and the published on 5, 25 and 100
    lines = next(iter(each for name, each in Document((written / PAGE).read_text()).tables.items() if "MACs" in name))
    assert [(line[0], number(line[3])) for line in lines[1:]] == [
        (each["name"], pytest.approx(100 * each["mean"], abs=0.005)) for each in content["frontier"]
    ]


def test_markdown_has_the_same_tables(page: Document, written: Path) -> None:
    lines = re.findall(r"^\| (.*) \|$", (written / MARKDOWN).read_text(), re.MULTILINE)
    cells = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    shown = [[" ".join(cell.split()) for cell in line] for table in page.tables.values() for line in table]
    assert Counter(map(tuple, cells)) >= Counter(tuple(line) for line in shown if any(line))


def test_what_was_not_measured_is_named_with_its_command(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "not measured"
    shutil.copytree(bundle.folder, folder)
    write_report([folder], tmp_path / "out")
    said = Document((tmp_path / "out" / PAGE).read_text()).said
    assert f"tinyscene evaluate '{folder}' --data DATA" in said
    assert said.count(f"tinyscene bench '{folder}'") >= 2
    for what in ("Accuracy was not measured", "Latency was not measured", "No target was measured", "confusion matrix"):
        assert what in said


def test_metrics_of_before_the_groups_were_recorded_can_still_be_shown(measured: Bundle, tmp_path: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        for key in ("by_class", "by_device", "by_device_group", "confusion"):
            del content["metrics"][key]

    write_report([copied(measured, tmp_path, older)], tmp_path / "out")
    page = Document((tmp_path / "out" / PAGE).read_text())
    assert len(page.table("Accuracy by class and recording device")) == 3
    assert "Accuracy by class and recording device was not recorded" in page.said


def copied(bundle: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], object], name: str = "copy") -> Path:
    folder = tmp_path / name
    shutil.copytree(bundle.folder, folder)
    content = json.loads((folder / INDEX).read_text())
    change(content)
    (folder / INDEX).write_text(json.dumps(content))
    return folder


def make_hostile(content: dict[str, Any]) -> None:
    content["labels"][0] = HOSTILE
    content["recipe"]["name"] = HOSTILE
    metrics, bench = content["metrics"], content["bench"]
    metrics["by_class"] = {HOSTILE if name == "airport" else name: each for name, each in metrics["by_class"].items()}
    metrics["by_device"][HOSTILE] = metrics["by_device"]["a"]
    metrics["runner"] = metrics["split"] = HOSTILE
    bench["latency"][HOSTILE] = bench["latency"]["native int8"]
    bench["targets"][HOSTILE] = bench["targets"].pop("cortex-m4")
    bench["targets"]["/dev/ttyACM0"][HOSTILE] = {HOSTILE: [HOSTILE]}
    bench["machine"]["cpu"] = HOSTILE


def test_a_hostile_bundles_names_are_only_text(measured: Bundle, tmp_path: Path) -> None:
    folder = copied(measured, tmp_path, make_hostile, "<b>bold")
    write_report([folder], tmp_path / "out")
    text = (tmp_path / "out" / PAGE).read_text()
    page = Document(text)
    assert not {"script", "img", "b>bold", "a](b)"} & {name for name, _ in page.elements}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert HOSTILE in page.said
    assert f"class {HOSTILE}" in page.table("Accuracy by class and recording device")
    assert text.count("--></") == 0
    for line in (tmp_path / "out" / MARKDOWN).read_text().splitlines():
        assert not re.search(r"(?<!\\)<", line)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda content: content["metrics"].update(accuracy="high"), r"metrics\.accuracy: .* make it again"),
        (lambda content: content["metrics"].update(accuracy=2.0), r"metrics\.accuracy"),
        (lambda content: content["metrics"].update(confusion=[[1]]), "must have 10 rows and columns"),
        (lambda content: content["bench"]["latency"].update(x={}), r"bench\.latency\.x\.median_ms"),
        (lambda content: content.update(bench=3), "bench: "),
        (lambda content: content["quantized"].pop("made_by"), r"quantized\.made_by"),
    ],
)
def test_records_that_no_command_writes_are_refused_by_name(
    change: Callable[[dict[str, Any]], object], line: str, measured: Bundle, tmp_path: Path
) -> None:
    folder = copied(measured, tmp_path, change)
    with pytest.raises(InputError, match=line):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_folders_give_the_same_bytes(measured: Bundle, sweep: Path, written: Path, tmp_path: Path) -> None:
    write_report([measured.folder, sweep], tmp_path / "again")
    for path in written.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_ids_are_unique_and_links_lead_somewhere(written: Path) -> None:
    text = (written / PAGE).read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    assert max(Counter(ids).values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)


def test_bundles_of_one_name_are_told_apart(measured: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    other = copied(measured, tmp_path, lambda _: None, "a/first")
    content = write_report([measured.folder, other], tmp_path / "out")
    assert [each["name"] for each in content["bundles"]] == [str(measured.folder), str(other)]


def test_folders_that_cannot_be_reported_are_refused_in_a_line(
    measured: Bundle, sweep: Path, tmp_path: Path, run_cli: Run
) -> None:
    waiting, taken, out = tmp_path / "waiting", tmp_path / "taken", tmp_path / "out"
    for folder in (waiting, taken):
        folder.mkdir()
    write(waiting, [failed("a", "5", 0, "", "waiting")])
    (taken / "file").write_text("mine")
    for arguments, line in (
        ([taken, "--out", out], f"{taken}: neither a bundle"),
        ([measured.folder, waiting, "--out", out], f"{waiting}: none of the 1 runs of the sweep is done yet"),
        ([sweep, "--out", taken], f"{taken}: already exists"),
        ([measured.folder], "--out: name the folder"),
        ([sweep, sweep], "--out: name the folder"),
        ([sweep, sweep, "--out", out], "is named twice"),
    ):
        code, said, fault = run_cli("report", *arguments)
        assert (code, said) == (2, "")
        assert fault.count("\n") == 1
        assert line in fault
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "waiting"]
    assert [path.name for path in taken.iterdir()] == ["file"]


def test_the_command_writes_the_page_and_prints_its_content(sweep: Path, tmp_path: Path, run_cli: Run) -> None:
    code, said, _ = run_cli("report", sweep, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(said) == json.loads((tmp_path / "out" / CONTENT).read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PAGE, CONTENT, MARKDOWN]


def test_a_sweep_alone_is_reported_in_its_own_folder(sweep: Path, tmp_path: Path, run_cli: Run) -> None:
    alone = tmp_path / "one"
    shutil.copytree(sweep, alone)
    code, said, _ = run_cli("report", alone)
    assert (code, said.rstrip()) == (0, (alone / "report.md").read_text().rstrip())


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (800, "light"), (1280, "light"), (1280, "dark")])
def test_the_page_fits_its_window_and_asks_for_nothing(
    width: int, scheme: Literal["light", "dark"], written: Path, tmp_path: Path, browser: Any
) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched.page.goto((written / PAGE).as_uri())
    picture = tmp_path / f"{width}-{scheme}.png"
    watched.page.screenshot(path=picture, full_page=True)
    assert overflow(watched.page) <= 0
    assert violations(watched.page) == []
    assert (watched.faults, watched.requests) == ([], [(written / PAGE).as_uri()])
    pixels = np.asarray(Image.open(picture).convert("L"), float)
    assert pixels.std() > 15
    assert (pixels.mean() > 128) == (scheme == "light")
    watched.close()


def test_a_hostile_page_runs_nothing_and_fits(measured: Bundle, tmp_path: Path, browser: Any) -> None:
    write_report([copied(measured, tmp_path, make_hostile, "<b>bold")], tmp_path / "out")
    watched = Watched(browser, viewport={"width": 360, "height": 900})
    watched.page.goto((tmp_path / "out" / PAGE).as_uri())
    assert len(watched.requests) == 1
    assert watched.faults == []
    assert overflow(watched.page) <= 0
    watched.close()


def test_the_page_prints_with_what_is_folded(written: Path, tmp_path: Path, browser: Any) -> None:
    watched = Watched(browser, viewport={"width": 794, "height": 1123}, color_scheme="dark")
    watched.page.goto((written / PAGE).as_uri())
    printed = watched.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3
    watched.page.emulate_media(media="print")
    watched.page.screenshot(path=tmp_path / "print.png", full_page=True)
    assert overflow(watched.page) <= 0
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert watched.page.locator("details table").first.bounding_box()["height"] > 0
    watched.close()


def test_the_keyboard_reaches_the_skip_link_first_and_it_leads_to_the_report(written: Path, browser: Any) -> None:
    watched = Watched(browser, viewport={"width": 800, "height": 600}, reduced_motion="reduce")
    page = watched.page
    page.goto((written / PAGE).as_uri())
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("each => each === document.activeElement && getComputedStyle(each).outlineStyle") == "solid"
    assert skip.bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    watched.close()
