"""Several models in one program: a prefix for all names, and a link that fails where header and archive differ."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import ROOT
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.codegen.naming import require_prefix, with_prefix
from tinyscene.firmware_bridge.firmware import write_firmware
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, build, find_toolchain, harness_sources

PROGRAM = """
#include <stdio.h>
#include "kitchen.h"
#include "garage.h"

#define DECIDE(name, NAME)                                                               \\
    static int decide_##name(void)                                                       \\
    {                                                                                    \\
        static NAME##_ALIGNED uint8_t memory[NAME##_BYTES];                              \\
        static int16_t pcm[NAME##_CLIP_SAMPLES];                                         \\
        int8_t scores[NAME##_CLASSES];                                                   \\
        size_t taken;                                                                    \\
        name *scene;                                                                     \\
        if (fread(pcm, sizeof pcm, 1, stdin) != 1 ||                                     \\
            name##_init(memory, sizeof memory, &scene) != NAME##_OK ||                   \\
            name##_push(scene, pcm, NAME##_CLIP_SAMPLES, &taken) != NAME##_READY ||      \\
            name##_run(scene) != NAME##_OK ||                                            \\
            name##_scores(scene, scores, NAME##_CLASSES) != NAME##_OK)                   \\
            return 1;                                                                    \\
        for (int index = 0; index < NAME##_CLASSES; index++)                             \\
            printf("%d ", scores[index]);                                                \\
        puts(name##_label(0));                                                           \\
        return 0;                                                                        \\
    }

DECIDE(kitchen, KITCHEN)
DECIDE(garage, GARAGE)

int main(void)
{
    return decide_kitchen() || decide_garage();
}
"""


IMAGE = """
#include "harness.h"
#include "kitchen.h"
#include "garage.h"

#define DECIDE(name, NAME)                                                               \\
    static int decide_##name(int32_t sounds, int32_t logits)                             \\
    {                                                                                    \\
        static NAME##_ALIGNED uint8_t memory[NAME##_BYTES];                              \\
        static int16_t pcm[NAME##_CLIP_SAMPLES];                                         \\
        int8_t scores[NAME##_CLASSES];                                                   \\
        size_t taken;                                                                    \\
        name *scene;                                                                     \\
        return harness_read(sounds, pcm, sizeof pcm) != sizeof pcm ||                    \\
               name##_init(memory, sizeof memory, &scene) != NAME##_OK ||                \\
               name##_push(scene, pcm, NAME##_CLIP_SAMPLES, &taken) != NAME##_READY ||   \\
               name##_run(scene) != NAME##_OK ||                                         \\
               name##_scores(scene, scores, NAME##_CLASSES) != NAME##_OK ||              \\
               harness_write(logits, scores, sizeof scores) != sizeof scores;            \\
    }

DECIDE(kitchen, KITCHEN)
DECIDE(garage, GARAGE)

int main(void)
{
    const int32_t sounds = harness_open("sounds.bin", 0), logits = harness_open("logits.bin", 1);
    return decide_kitchen(sounds, logits) || decide_garage(sounds, logits);
}
"""


def other_model() -> Bundle:
    return open_bundle(ROOT / "tinyscene" / "bundled" / "sounds10")


def library_of(bundle: Bundle, kernels: str = "plain") -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, (kernels,), rule=bundle.rule)


def run(command: Sequence[str | Path], folder: Path, **more: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, **more)  # type: ignore[call-overload]


def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("gcc is missing: apt-get install gcc")
    return found


def test_two_models_in_one_program_give_their_own_golden_logits(bundle: Bundle, tmp_path: Path) -> None:
    models = {"kitchen": bundle, "garage": other_model()}
    for prefix, model in models.items():
        for name, text in with_prefix(library_of(model).files, prefix).items():
            (tmp_path / name).write_text(text)
    (tmp_path / "program.c").write_text(PROGRAM)
    defines = ["-DKITCHEN_PLAIN", "-DGARAGE_PLAIN"]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", *defines]
    built = run([gcc(), *strict, *sorted(tmp_path.glob("*.c")), "-o", "program"], tmp_path)
    assert built.returncode == 0, built.stderr.decode()
    sounds = [model.vectors.pcm[1].tobytes() for model in models.values()]
    said = run([tmp_path / "program"], tmp_path, input=b"".join(sounds)).stdout.decode().splitlines()
    expected = [f"{' '.join(map(str, each.vectors.logits[1].tolist()))} {each.labels[0]}" for each in models.values()]
    assert said == expected


@pytest.mark.slow
@pytest.mark.parametrize(("toolchain", "emulator"), [("gcc", "qemu"), ("zig", "unicorn")])
def test_two_models_in_one_image_of_a_cortex_m4_give_their_own_golden_logits(
    bundle: Bundle, tmp_path: Path, toolchain: str, emulator: str
) -> None:
    target, models = TARGETS["cortex-m4"], {"kitchen": bundle, "garage": other_model()}
    for needed in {"gcc": (target.compiler, target.qemu[0]), "zig": ()}[toolchain]:
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is missing: make tools")
    for prefix, model in models.items():
        for name, text in with_prefix(library_of(model, target.kernels).files, prefix).items():
            (tmp_path / name).write_text(text)
    (tmp_path / "image.c").write_text(IMAGE)
    sources = [*sorted(tmp_path.glob("*.c")), *harness_sources(target)]
    image = build(find_toolchain(toolchain, target), target, sources, tmp_path / "image.elf", includes=[tmp_path])
    (tmp_path / "sounds.bin").write_bytes(b"".join(model.vectors.pcm[1].tobytes() for model in models.values()))
    emulators.run(image, target, tmp_path, emulator)
    expected = b"".join(model.vectors.logits[1].tobytes() for model in models.values())
    assert (tmp_path / "logits.bin").read_bytes() == expected


def test_a_header_links_with_its_own_archive_only(bundle: Bundle, tmp_path: Path) -> None:
    """Of the same network with other windows: nothing in a program tells them apart but the name."""
    program = '#include "tinyscene.h"\nint main(void) { return tinyscene_init(0, 0, 0) == TINYSCENE_OK; }\n'
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, hop in zip(folders, (None, 0.5), strict=True):
        folder.mkdir()
        library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop)
        for name, text in library.files.items():
            (folder / name).write_text(text)
        (folder / "main.c").write_text(program)
        compiled = run([gcc(), "-std=c99", "-DTINYSCENE_PLAIN", "-c", *sorted(folder.glob("*.c"))], folder)
        assert compiled.returncode == 0, compiled.stderr.decode()
    for header, archive in ((0, 0), (0, 1), (1, 0)):
        objects = [path for path in sorted(folders[archive].glob("*.o")) if path.name != "main.o"]
        linked = run([gcc(), folders[header] / "main.o", *objects, "-o", "program"], tmp_path)
        assert (linked.returncode == 0) == (header == archive)
        if header != archive:
            assert re.search(rb"undefined reference to `tinyscene_init_[0-9a-f]{12}'", linked.stderr)


@pytest.mark.parametrize("kind", [None, "cmake", "arduino", "platformio", "zephyr", "espidf"])
def test_no_name_of_a_package_with_a_prefix_is_the_librarys_own(
    bundle: Bundle, tmp_path: Path, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyscene.firmware_bridge.firmware._measure", lambda library, *_: _unmeasured())
    written = write_firmware(bundle, tmp_path / "out", kind, ("plain",), prefix="kitchen")
    texts = {name: (tmp_path / "out" / name).read_text() for name in written.files if name != "report.json"}
    assert [name for name in texts if "tinyscene" in name] == []
    kept = re.compile(r"https?://\S+|`tinyscene [a-z]+|The tinyscene developers")
    found = {name for name, text in texts.items() if "tinyscene" in kept.sub("", text).lower()}
    assert found == set()


def _unmeasured() -> tuple[object, list[object]]:
    from tinyscene.firmware_bridge.report import MissingFlash

    return MissingFlash("not measured"), []


@pytest.mark.parametrize("prefix", ["", "Kitchen", "9lives", "a-b", "int", "string", "main", "a" * 32, "é", "a\n"])
def test_a_prefix_that_c_cannot_have_is_refused(prefix: str) -> None:
    with pytest.raises(InputError, match="--prefix"):
        require_prefix(prefix)


@pytest.mark.parametrize("kind", ["wasm", "board"])
def test_a_package_that_is_a_program_takes_no_prefix(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"the package {kind} is a program of its own"):
        write_firmware(bundle, tmp_path / "out", kind, prefix="kitchen")
    assert not (tmp_path / "out").exists()
