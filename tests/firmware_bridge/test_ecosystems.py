"""Packages held to the ecosystems' own tools, as far as package registries have them (extra `boards`, `make tools`).

Arduino's builder compiles for a platform that consists of stand-ins (test_examples.py). The other tools here read
manifests and options only.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.firmware_bridge.packaged import COSTS, HOME, SKETCHES, need, run, write
from tests.firmware_bridge.test_examples import DECISIONS, STAND_INS, WRAPPED, answers, listen
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.packaging import package

pytestmark = pytest.mark.slow


def tool(name: str) -> str:
    """A program of this environment, or of the system."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed: the extra `boards` has it")
    return path


def made(library: Library, kind: str, folder: Path, home: str | None = HOME) -> Path:
    return write(package(library, kind, "1.2.3", COSTS, home), folder / "tinyscene")


PLATFORM = """name=Stand-ins
version=1.0.0
flags=-c -O1 -Wall -Wextra -Werror -DARDUINO_ARCH_{build.name} {includes} "{source_file}" -o "{object_file}"
recipe.c.o.pattern="gcc" -std=gnu11 {flags}
recipe.cpp.o.pattern="g++" -std=c++11 {flags}
recipe.ar.pattern="ar" rcs "{archive_file_path}" "{object_file}"
recipe.c.combine.pattern="g++" -pthread {object_files} MACHINE "{archive_file_path}" WRAPPED -o "{build.path}/board"
preproc.macros.flags=-w -x c++ -E -CC -DARDUINO_ARCH_{build.name}
recipe.preproc.macros="g++" {preproc.macros.flags} {includes} "{source_file}" -o "{preprocessed_file_path}"
"""  # in the format of Arduino's platforms; the program without the suffix .elf
BUILDERS = "/usr/share/arduino-builder"  # the settings of Debian's package for it


@pytest.mark.parametrize("sketch", SKETCHES)
def test_arduinos_builder_finds_the_library_and_builds_the_sketch(
    sketch: str, library: Library, bundle: Bundle, tmp_path: Path
) -> None:
    need("arduino-builder", "gcc", "g++")
    folder, machine = made(library, "arduino", tmp_path / "libraries"), tmp_path / "machine.o"
    name = SKETCHES[sketch].removeprefix("ARDUINO_ARCH_")
    includes = (f"-I{folder / 'src'}", f"-I{STAND_INS}")
    run("gcc", "-std=gnu11", "-O1", *includes, "-c", STAND_INS / "machine.c", "-o", machine)
    platform = PLATFORM.replace("MACHINE", str(machine)).replace("WRAPPED", " ".join(WRAPPED))
    for architecture in (name.lower(), "avr"):
        home = tmp_path / "hardware/tests" / architecture
        boards = f"board.name=Stand-ins\nboard.build.core=core\nboard.build.board=BOARD\nboard.build.name={name}\n"
        write({"platform.txt": platform, "boards.txt": boards}, home)
        shutil.copytree(STAND_INS / "arduino", home / "cores/core")
        shutil.copy(STAND_INS / "machine.h", home / "cores/core")
        for each in ("tools", f"build-{architecture}"):
            (tmp_path / each).mkdir(exist_ok=True)
        where = ("-hardware", BUILDERS, "-hardware", tmp_path / "hardware", "-tools", tmp_path / "tools")
        where += ("-libraries", tmp_path / "libraries", "-build-path", tmp_path / f"build-{architecture}")
        program = folder / "examples" / sketch / f"{sketch}.ino"
        output = run("arduino-builder", "-compile", *where, "-fqbn", f"tests:{architecture}:board", program)
        assert ("claims to run on" in output) == (architecture == "avr"), output
        assert ("WARNING" in output) == (architecture == "avr"), output
    rate = bundle.front_end.sample_rate
    write({"sound.raw": bytes(2 * rate * (DECISIONS // 3))}, tmp_path)
    heard = listen(tmp_path / f"build-{name.lower()}" / "board", tmp_path / "sound.raw", rate)
    assert len(answers(heard)) > 3
    assert "lost by the driver: 0\n" in heard


@pytest.mark.parametrize("home", [HOME, None])
def test_espressifs_component_manager_packs_the_component(home: str | None, library: Library, tmp_path: Path) -> None:
    compote, folder = tool("compote"), made(library, "espidf", tmp_path, home)
    run(compote, "-W", "manifest", "lint", folder, cwd=folder)
    run(compote, "-W", "component", "pack", "--name", "tinyscene", "--dest-dir", tmp_path / "dist", cwd=folder)
    with tarfile.open(tmp_path / "dist/tinyscene_1.2.3.tgz") as archive:
        packed = {name.removeprefix("./") for name in archive.getnames()}
    assert {f"src/{name}" for name in library.files if name.endswith(".c")} <= packed
    assert {"CMakeLists.txt", "Kconfig", "idf_component.yml", "examples/scene/main/main.c"} <= packed
    (folder / "idf_component.yml").write_text("version: 1.2.x.y\n")
    run(compote, "component", "pack", "--name", "tinyscene", "--dest-dir", tmp_path / "no", cwd=folder, ok=False)


KCONFIG = """
import json, sys
import kconfiglib
parsed = kconfiglib.Kconfig(sys.argv[1], warn_to_stderr=False)
for path in sys.argv[2:]:
    parsed.load_config(path)
print(json.dumps([parsed.warnings, {name: symbol.str_value for name, symbol in parsed.syms.items()}]))
"""


def options(tree: Path, kconfig: Path, *settings: Path) -> dict[str, str]:
    """The values of a Kconfig file's options with settings, parsed by kconfiglib, which Zephyr and ESP-IDF use."""
    done = subprocess.run(
        [sys.executable, "-c", KCONFIG, kconfig, *settings],
        env={**os.environ, "srctree": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'kconfiglib'" in done.stderr:
        pytest.skip("kconfiglib is not installed: the extra `boards` has it")
    assert done.returncode == 0, done.stderr
    warnings, values = json.loads(done.stdout)
    assert warnings == []
    return values


def test_zephyrs_kconfig_library_reads_the_module_and_the_sample(library: Library, tmp_path: Path) -> None:
    folder = made(library, "zephyr", tmp_path)
    of_zephyr = ("AUDIO", "AUDIO_DMIC", "SPEED_OPTIMIZATIONS")
    text = f'source "{folder}/zephyr/Kconfig"\nconfig MAIN_STACK_SIZE\n\tint "stack"\n'
    text += "".join(f'config {name}\n\tbool "{name}"\n' for name in of_zephyr)
    write({"Kconfig.zephyr": text}, tmp_path / "zephyr")
    sample = folder / "samples/scene"
    values = options(tmp_path / "zephyr", sample / "Kconfig", sample / "prj.conf")
    assert {values[name] for name in ("TINYSCENE", *of_zephyr)} == {"y"}
    assert (values["SCENE_MIPS"], values["SCENE_SOUND_MS"], values["MAIN_STACK_SIZE"]) == ("64", "0", "4096")


def test_the_options_of_the_esp_idf_component_and_its_example_parse(library: Library, tmp_path: Path) -> None:
    folder = made(library, "espidf", tmp_path)
    assert options(folder, folder / "Kconfig")["TINYSCENE_OPTIMIZE_SPEED"] == "y"
    values = options(folder, folder / "examples/scene/main/Kconfig.projbuild")
    used = set(re.findall(r"CONFIG_(SCENE_\w+)", (folder / "examples/scene/main/main.c").read_text()))
    assert used == {name for name in values if name.startswith("SCENE_")}


PLATFORMIO = """
import sys
from platformio.package.manifest import schema
from platformio.package.pack import PackagePacker
schema.ManifestSchema.load_spdx_licenses = staticmethod(lambda: {"licenses": [{"licenseId": "Apache-2.0"}]})
print(PackagePacker(sys.argv[1]).pack(sys.argv[2]))
"""  # whose list of licenses it would fetch from the web


@pytest.mark.parametrize("home", [HOME, None])
def test_platformio_packs_the_library(home: str | None, library: Library, tmp_path: Path) -> None:
    folder = made(library, "platformio", tmp_path, home)
    command = [sys.executable, "-c", PLATFORMIO, folder, tmp_path / "packed.tar.gz"]
    settings = {"PLATFORMIO_CORE_DIR": str(tmp_path / "core"), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if "No module named 'platformio'" in done.stderr:
        pytest.skip("platformio is not installed: the extra `boards` has it")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "packed.tar.gz") as archive:
        packed = set(archive.getnames())
    assert {f"src/{name}" for name in library.files} | {"library.json", "LICENSE"} <= packed


def test_west_takes_the_module_as_a_project_of_a_workspace(library: Library, tmp_path: Path) -> None:
    west, folder = tool("west"), made(library, "zephyr", tmp_path)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "x")):
        run(*git, *command, cwd=folder)
    manifest = f"manifest:\n  projects:\n    - name: tinyscene\n      url: {folder}\n      revision: main\n"
    write({"west.yml": manifest}, tmp_path / "workspace/app")
    run(west, "init", "-l", "app", cwd=tmp_path / "workspace")
    run(west, "update", cwd=tmp_path / "workspace")
    listed = Path(run(west, "list", "-f", "{abspath}", "tinyscene", cwd=tmp_path / "workspace").strip())
    assert (listed / "zephyr/module.yml").read_bytes() == (folder / "zephyr/module.yml").read_bytes()
