"""Emulators: programs whose answers and instruction counts are known, on every processor there is."""

import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.emulators import Call, run
from tinyscene.firmware_bridge.targets.semihosting import Semihosting
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, build, find_toolchain, harness_sources

BARE = [name for name, target in TARGETS.items() if target.bare]
OFTEN = ("cortex-m4", "riscv32")  # the other targets are slow tests: each has zig make its run-time library once
MACHINES = [
    pytest.param(name, emulator, marks=[] if name in OFTEN else [pytest.mark.slow])
    for name in BARE
    for emulator in emulators.EMULATORS
    if (TARGETS[name].unicorn if emulator == "unicorn" else TARGETS[name].qemu)
]

# The first byte of job.bin says what to do.
PROGRAM = r"""
#include <string.h>
#include "harness.h"

void counted_loop(void);    /* 2002 instructions, an odd number of halfwords */
int counted_choice(int x);  /* 5, whatever x is */
void counted_outer(void);   /* the loop, and 3 more on Arm, 6 on RISC-V */
void counted_tail(void);    /* the loop, and 1 more */

#if defined(__arm__)
__attribute__((naked, noinline)) void counted_loop(void)
{
    __asm volatile("movw r0, #1000 \n 0: subs r0, #1 \n bne 0b \n bx lr");
}
__attribute__((naked, noinline)) int counted_choice(int x)
{
    __asm volatile("cmp r0, #3 \n ite lt \n movlt r0, #1 \n movge.w r0, #2 \n bx lr");
}
__attribute__((naked, noinline)) void counted_outer(void)
{
    __asm volatile("push {r4, lr} \n bl counted_loop \n pop {r4, pc}");
}
__attribute__((naked, noinline)) void counted_tail(void)
{
    __asm volatile("b.w counted_loop");
}
#else
__attribute__((naked, noinline)) void counted_loop(void)
{
    __asm volatile("li a0, 1000 \n 0: addi a0, a0, -1 \n bnez a0, 0b \n ret");
}
__attribute__((naked, noinline)) int counted_choice(int x)
{
    __asm volatile("slti a0, a0, 3 \n xori a0, a0, 1 \n addi a0, a0, 1 \n nop \n ret");
}
__attribute__((naked, noinline)) void counted_outer(void)
{
    __asm volatile("addi sp, sp, -16 \n sw ra, 12(sp) \n jal counted_loop \n lw ra, 12(sp) \n addi sp, sp, 16 \n ret");
}
__attribute__((naked, noinline)) void counted_tail(void)
{
    __asm volatile("j counted_loop");
}
#endif

static uint8_t job[1000], answer[1000];
static uint32_t initial = 12345;
static uint32_t from_zero;

__attribute__((noinline)) static void use_stack(void)
{
    volatile uint8_t much[5000];
    for (uint32_t i = 0; i < sizeof much; i++)
        much[i] = job[i % 7];
}

static uint32_t answer_all(uint32_t bytes)
{
    uint64_t state = initial + from_zero++;
    for (uint32_t i = 0; i < bytes; i++) {
        state = (state * 6364136223846793005u + job[i]) / (job[i] + 3u);
        answer[i] = (uint8_t)state;
    }
    memcpy(answer + 1, job, 5);
    return bytes;
}

static uint32_t count_twice(void)
{
    const uint64_t start = harness_instructions();
    for (int i = 0; i < 100; i++)
        counted_loop();
    const uint32_t taken = (uint32_t)(harness_instructions() - start);
    memcpy(answer, &taken, 4);
    return 4;
}

static uint32_t measure_stack(void)
{
    harness_stack_paint();
    use_stack();
    const uint32_t used = harness_stack_used();
    memcpy(answer, &used, 4);
    return 4;
}

int main(void)
{
    int32_t file = harness_open("job.bin", 0);
    if (file < 0) {
        harness_print("there is no job.bin\n");
        return 7;
    }
    uint32_t bytes = harness_read(file, job, sizeof job);
    harness_close(file);
    switch (job[0]) {
    case 'a': bytes = answer_all(bytes); break;
    case 'c': counted_loop(); counted_choice(1); counted_choice(5); counted_outer(); counted_tail(); return 0;
    case 'i': bytes = count_twice(); break;
    case 's': bytes = measure_stack(); break;
    case 'r': harness_print("reading\n"); return *(volatile uint8_t *)0xf0000000;
    case 'w': *(volatile uint8_t *)0xf0000000 = 1; return 0;
    case 'j': ((void (*)(void))0xf0000001)(); return 0;
#if defined(__arm__)
    case 'u': __asm volatile("udf #0"); return 0;
#else
    case 'u': __asm volatile(".4byte 0"); return 0;
#endif
    case 'e': for (;;) __asm volatile("");
    case 'o': return harness_open("../escaped", 1) < 0 ? 0 : 1;
    default: return 9;
    }
    file = harness_open("result.bin", 1);
    harness_write(file, answer, bytes);
    harness_rewind(file);
    harness_write(file, answer, 1);
    harness_close(file);
    return 0;
}
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory):
    """The program above, for a target."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, toolchain: str = "zig") -> Path:
        target = TARGETS[name]
        if toolchain == "gcc" and shutil.which(target.compiler) is None:
            pytest.skip(f"{target.compiler} is not installed")
        if (name, toolchain) not in made:
            folder = tmp_path_factory.mktemp(name)
            (folder / "program.c").write_text(PROGRAM)
            sources = [folder / "program.c", *harness_sources(target)]
            made[name, toolchain] = build(find_toolchain(toolchain, target), target, sources, folder / "program.elf")
        return made[name, toolchain]

    return make


def need(name: str, emulator: str) -> None:
    if emulator == "qemu" and shutil.which(TARGETS[name].qemu[0]) is None:
        pytest.skip(f"{TARGETS[name].qemu[0]} is not installed")


def answer_of(job: bytes) -> bytes:
    """What the program answers to a job that begins with an a."""
    state, answer = 12345, bytearray()
    for byte in job:
        state = (state * 6364136223846793005 + byte) % 2**64 // (byte + 3)
        answer.append(state & 255)
    answer[1:6] = job[:5]
    return bytes(answer)


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize(("name", "emulator"), MACHINES)
def test_a_program_answers_the_same_everywhere(name: str, emulator: str, toolchain: str, image, tmp_path: Path) -> None:
    need(name, emulator)
    job = b"a" + np.random.default_rng(3).bytes(700)
    (tmp_path / "job.bin").write_bytes(job)
    result = run(image(name, toolchain), TARGETS[name], tmp_path, emulator)
    assert (result.exit_code, result.console) == (0, "")
    assert (tmp_path / "result.bin").read_bytes() == answer_of(job)


@pytest.mark.parametrize(("name", "emulator"), MACHINES)
def test_exit_codes_and_the_console_come_through(name: str, emulator: str, image, tmp_path: Path) -> None:
    need(name, emulator)
    result = run(image(name), TARGETS[name], tmp_path, emulator)
    assert (result.exit_code, result.console) == (7, "there is no job.bin\n")


@pytest.mark.parametrize("job", "rwju")
@pytest.mark.parametrize(("name", "emulator"), MACHINES)
def test_a_fault_is_one_line(name: str, emulator: str, job: str, image, tmp_path: Path) -> None:
    need(name, emulator)
    (tmp_path / "job.bin").write_text(job)
    with pytest.raises(InputError, match=r"^program\.elf faulted: .*0x[0-9a-f]+") as told:
        run(image(name), TARGETS[name], tmp_path, emulator)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", OFTEN)
def test_both_emulators_tell_where_a_fault_was(name: str, image, tmp_path: Path) -> None:
    need(name, "qemu")
    (tmp_path / "job.bin").write_text("w")
    places = []
    for emulator in emulators.EMULATORS:
        with pytest.raises(InputError) as told:
            run(image(name), TARGETS[name], tmp_path, emulator)
        places += re.findall(r"(?:at|pc) 0x([0-9a-f]+)", str(told.value))
    assert int(places[0], 16) == int(places[1], 16)


def test_a_fault_names_the_function_and_the_last_words(image, tmp_path: Path) -> None:
    (tmp_path / "job.bin").write_text("r")
    with pytest.raises(InputError, match=r"in main; reading$"):
        run(image("cortex-m4"), TARGETS["cortex-m4"], tmp_path)


@pytest.mark.parametrize(("name", "emulator"), MACHINES)
def test_a_program_that_does_not_end_is_stopped(name: str, emulator: str, image, tmp_path: Path) -> None:
    need(name, emulator)
    (tmp_path / "job.bin").write_text("e")
    with pytest.raises(InputError, match=r"^program\.elf was stopped: it did not end within 0\.5 seconds"):
        run(image(name), TARGETS[name], tmp_path, emulator, seconds=0.5)


def test_no_file_outside_of_the_folder_can_be_opened(image, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "job.bin").write_text("o")
    assert run(image("cortex-m4"), TARGETS["cortex-m4"], folder, "unicorn").exit_code == 0
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("name", OFTEN)
def test_calls_are_counted_to_the_instruction(name: str, toolchain: str, image, tmp_path: Path) -> None:
    (tmp_path / "job.bin").write_text("c")
    result = run(image(name, toolchain), TARGETS[name], tmp_path, counting=True, by_function="counted_.*")
    assert result.calls == [
        Call("counted_loop", 2002),
        Call("counted_choice", 5),
        Call("counted_choice", 5),
        Call("counted_loop", 2002),
        Call("counted_outer", 2002 + (3 if name == "cortex-m4" else 6)),
        Call("counted_loop", 2002),
        Call("counted_tail", 2003),
    ]


@pytest.mark.parametrize(("name", "skipped"), [("cortex-m4", 10), ("riscv32", 0)])
def test_the_total_is_that_of_single_steps(name: str, skipped: int, image, tmp_path: Path) -> None:
    """But for instructions that their condition skips: they count, and a step goes over them."""
    (tmp_path / "job.bin").write_bytes(b"a" + bytes(range(60)))
    counted = run(image(name), TARGETS[name], tmp_path, counting=True).instructions
    processor, steps = emulators._Unicorn(image(name), TARGETS[name]), 0
    with Semihosting(processor.uc, tmp_path) as host:
        while host.exit_code is None:
            steps += 1
            processor.uc.reg_write(processor.pc, processor.next | processor.thumb)
            if processor._at_host_call():
                processor._serve(host)
            else:
                processor.uc.emu_start(processor.next | processor.thumb, emulators.NOWHERE, count=1)
                processor.next = processor.uc.reg_read(processor.pc)
    assert counted is not None
    assert steps > 5000
    assert 0 <= counted - steps <= skipped


@pytest.mark.parametrize("name", [each for each in BARE if TARGETS[each].qemu])
def test_programs_count_by_themselves_under_qemu(name: str, image, tmp_path: Path) -> None:
    need(name, "qemu")
    (tmp_path / "job.bin").write_text("i")
    run(image(name), TARGETS[name], tmp_path, "qemu")
    (taken,) = struct.unpack("<I", (tmp_path / "result.bin").read_bytes())
    assert 100 * 2002 <= taken <= 100 * (2002 + 6) + 120  # with the loop around it, and 40 a tick


@pytest.mark.parametrize(("name", "emulator"), MACHINES)
def test_the_high_water_mark_sees_what_a_function_uses(name: str, emulator: str, image, tmp_path: Path) -> None:
    need(name, emulator)
    (tmp_path / "job.bin").write_text("s")
    run(image(name), TARGETS[name], tmp_path, emulator)
    (used,) = struct.unpack("<I", (tmp_path / "result.bin").read_bytes())
    assert 5000 <= used <= 5200


def test_a_missing_qemu_says_how_to_install_it(image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = image("riscv32")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"^qemu-system-riscv32 is not installed: apt-get install qemu-system-misc$"):
        run(made, TARGETS["riscv32"], tmp_path, "qemu")


def test_a_missing_unicorn_says_how_to_install_it(image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(InputError, match=r"^unicorn is not installed: pip install .*\[firmware\]'$"):
        run(image("cortex-m4"), TARGETS["cortex-m4"], tmp_path)


@pytest.mark.parametrize(
    ("name", "emulator", "line"),
    [
        ("cortex-m55", "unicorn", "unicorn has no cortex-m55: use qemu"),
        ("cortex-m33", "qemu", "qemu has no machine for cortex-m33: use unicorn"),
        ("cortex-m4", "renode", "'renode' is unknown: known are unicorn, qemu"),
    ],
)
def test_an_emulator_without_the_core_is_refused(name: str, emulator: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        run(tmp_path / "none.elf", TARGETS[name], tmp_path, emulator)


def test_an_image_for_another_processor_is_refused(image, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^program\.elf was not built for cortex-m4"):
        run(image("riscv32"), TARGETS["cortex-m4"], tmp_path, "unicorn")
