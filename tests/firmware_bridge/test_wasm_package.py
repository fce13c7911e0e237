"""The npm package: its WebAssembly in wasmtime, its JavaScript in Node, its types."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.firmware_bridge.packaged import check_package, golden_lines, need, recording, run, write
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.packaging import WASM_EXPORTS, WASM_KERNELS, WASM_MODULES, package


@pytest.fixture(scope="module")
def wasm_library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, WASM_KERNELS)


@pytest.fixture(scope="module")
def wasm(wasm_library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    return write(package(wasm_library, "wasm", "1.2.3"), tmp_path_factory.mktemp("wasm"))


class Module:
    """tinyscene.wasm in wasmtime."""

    def __init__(self, path: Path) -> None:
        wasmtime = pytest.importorskip("wasmtime")
        engine = wasmtime.Engine()
        self.module = wasmtime.Module.from_file(engine, str(path))
        self.store = wasmtime.Store(engine)
        self.exports = wasmtime.Instance(self.store, self.module, []).exports(self.store)

    def call(self, name: str, *arguments: int) -> Any:
        return self.exports[name](self.store, *arguments)

    def logits(self, pcm: np.ndarray) -> list[np.ndarray]:
        decided = []
        for start in range(0, len(pcm), room := self.call("tinyscene_wasm_pcm_samples")):
            block = pcm[start : start + room]
            self.exports["memory"].write(self.store, block.tobytes(), self.call("tinyscene_wasm_pcm"))
            at = 0
            while at < len(block):
                status = self.call("tinyscene_wasm_push", at, len(block) - at)
                assert status >= 0
                at += self.call("tinyscene_wasm_taken")
                if status == 1:
                    assert self.call("tinyscene_run", self.call("tinyscene_wasm_instance")) == 0
                    start_at = self.call("tinyscene_wasm_scores")
                    end = start_at + self.call("tinyscene_wasm_classes")
                    content = self.exports["memory"].read(self.store, start_at, end)
                    decided.append(np.frombuffer(content, np.int8))
        return decided


def test_the_wasm_package_has_a_license_a_short_readme_and_nothing_left_to_fill_in(
    wasm: Path, wasm_library: Library
) -> None:
    check_package(wasm, wasm_library)
    for name in WASM_MODULES:
        assert f"{(wasm / name).stat().st_size:,} bytes" in (wasm / "README.md").read_text()


@pytest.mark.parametrize("name", WASM_MODULES)
def test_a_wasm_module_needs_nothing_and_exports_what_it_says(name: str, wasm: Path) -> None:
    module = Module(wasm / name).module
    assert list(module.imports) == []
    assert {each.name for each in module.exports} == {"memory", *WASM_EXPORTS}


@pytest.mark.parametrize("name", WASM_MODULES)
def test_a_wasm_module_in_wasmtime_gives_the_golden_logits(name: str, wasm: Path, bundle: Bundle) -> None:
    module = Module(wasm / name)
    assert module.call("tinyscene_wasm_start") == 0
    np.testing.assert_array_equal(module.logits(bundle.vectors.pcm.ravel()), bundle.vectors.logits)


def test_only_one_wasm_module_has_vectors(wasm: Path) -> None:
    wasmtime = pytest.importorskip("wasmtime")
    config = wasmtime.Config()
    config.wasm_relaxed_simd = config.wasm_simd = False
    engine = wasmtime.Engine(config)
    wasmtime.Module.validate(engine, (wasm / "tinyscene_plain.wasm").read_bytes())
    with pytest.raises(wasmtime.WasmtimeError, match="SIMD"):
        wasmtime.Module.validate(engine, (wasm / "tinyscene.wasm").read_bytes())


def test_the_wasm_module_refuses_a_block_beyond_its_buffer(wasm: Path) -> None:
    module = Module(wasm / "tinyscene.wasm")
    assert module.call("tinyscene_wasm_start") == 0
    room = module.call("tinyscene_wasm_pcm_samples")
    for start, samples in ((0, room + 1), (1, room), (-1, 1), (0, -1), (2**31 - 1, 2**31 - 1)):
        assert module.call("tinyscene_wasm_push", start, samples) < 0
        assert module.call("tinyscene_wasm_taken") == 0


SCRIPT = """
import { readFileSync } from "node:fs";
import { Tinyscene } from "./tinyscene.mjs";
const raw = readFileSync("sound.raw");
const pcm = new Int16Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
const urls = ["tinyscene.wasm", "tinyscene_plain.wasm"].map((name) => new URL(name, import.meta.url));
const ways = [[urls[0]], [readFileSync(urls[0])], [new Uint8Array(9), urls[1]], urls];
const results = [];
for (const way of ways) {
    const scene = await Tinyscene.load(...way);
    const decisions = [];
    for (let at = 0; at < pcm.length; at += 7001) decisions.push(...scene.push(pcm.subarray(at, at + 7001)));
    scene.reset();
    const again = scene.push(pcm).length;
    for (const decision of decisions) decision.logits = Array.from(decision.logits);
    results.push({ rate: scene.sampleRate, labels: scene.labels, again, decisions });
}
let refused = "";
try { (await Tinyscene.load(...ways[1])).push([1, 2, 3]); } catch (error) { refused = error.message; }
console.log(JSON.stringify({ results, refused }));
"""


def test_the_javascript_wrapper_in_node_gives_the_golden_logits_with_labels_and_probabilities(
    wasm: Path, bundle: Bundle, tmp_path: Path
) -> None:
    need("node")
    folder = tmp_path / "package"
    shutil.copytree(wasm, folder)
    write({"use.mjs": SCRIPT}, folder)
    recording(bundle, folder / "sound.raw")
    found = json.loads(run("node", "use.mjs", cwd=folder))
    assert found["refused"] == "tinyscene: push takes an Int16Array"
    output = bundle.graph.output.q
    real = output.scale * (bundle.vectors.logits.astype(float) - output.zero_point)
    expected = np.exp(real) / np.exp(real).sum(1, keepdims=True)
    for result in found["results"]:
        assert (result["rate"], result["labels"]) == (bundle.front_end.sample_rate, list(bundle.labels))
        assert result["again"] == len(expected)
        assert [each["label"] for each in result["decisions"]] == golden_lines(bundle)
        np.testing.assert_array_equal([each["logits"] for each in result["decisions"]], bundle.vectors.logits)
        np.testing.assert_allclose([each["probabilities"] for each in result["decisions"]], expected, atol=1e-9)


USE = """
import { Tinyscene } from "tinyscene";
const scene = await Tinyscene.open();
const pcm = new Int16Array(scene.sampleRate * 2);
console.log(JSON.stringify(scene.push(pcm).map((each) => each.label)));
"""
TYPED = """
import { Tinyscene, type Decision } from "tinyscene";
const scene: Tinyscene = await Tinyscene.open();
const decisions: Decision[] = scene.push(new Int16Array(scene.sampleRate));
for (const each of decisions) console.log(each.label, each.index, each.logits.length, each.probabilities[0]);
scene.reset();
const rows: number = scene.mels * scene.frames + scene.labels.length;
export { rows };
"""


@pytest.fixture
def project(wasm: Path, tmp_path: Path) -> Path:
    """A JavaScript project that the package is installed in."""
    shutil.copytree(wasm, tmp_path / "node_modules/tinyscene")
    return write({"package.json": '{"type": "module"}', "use.mjs": USE, "use.ts": TYPED}, tmp_path)


def test_the_npm_package_lists_its_files_and_exports_what_is_there(wasm: Path) -> None:
    manifest: dict[str, Any] = json.loads((wasm / "package.json").read_text())
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", manifest["name"])
    assert manifest["version"] == "1.2.3"
    assert {path.name for path in wasm.iterdir()} == {*manifest["files"], "package.json"}
    main = manifest["exports"]["."]
    named = [manifest["main"], manifest["types"], *main.values()]
    named += [path for path in manifest["exports"].values() if isinstance(path, str)]
    assert all((wasm / path).is_file() for path in named)


def test_the_npm_package_is_imported_by_its_name_and_finds_its_modules(project: Path, bundle: Bundle) -> None:
    need("node")
    (first, second) = json.loads(run("node", "use.mjs", cwd=project))
    assert first == second
    assert first in bundle.labels


@pytest.mark.slow
def test_the_npm_package_bundled_by_esbuild_runs(project: Path, bundle: Bundle) -> None:
    need("node", "esbuild")
    run("esbuild", "use.mjs", "--bundle", "--format=esm", "--platform=node", "--outfile=out/use.mjs", cwd=project)
    for name in WASM_MODULES:
        shutil.copy(project / "node_modules/tinyscene" / name, project / "out")
    (first, _) = json.loads(run("node", "out/use.mjs", cwd=project))
    assert first in bundle.labels


@pytest.mark.slow
def test_the_types_of_the_npm_package_suit_a_program(project: Path) -> None:
    need("tsc")
    options = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom")
    run("tsc", *options, "use.ts", cwd=project)
    (project / "use.ts").write_text(TYPED.replace("new Int16Array(scene.sampleRate)", "[1, 2, 3]"))
    assert "Type 'number[]'" in run("tsc", *options, "use.ts", cwd=project, ok=False)
