"""Preparing, training and classifying where Python has no POSIX calls, as on Windows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from tests import ROOT
from tests.train.test_export import TINY
from tests.train.test_loop import QUICK
from tinyscene.deploy.bundle.bundle import Bundle

# The libraries know the system by sys.platform, which stays: they are imported first, with what they need.
WITHOUT_POSIX = """
import sys, os, asyncio, multiprocessing
import ai_edge_litert.interpreter, numpy, platformdirs, pydantic, rich.console, safetensors.numpy, soundfile, typer
if "torch" in sys.argv.pop(1).split():
    import torch, torch.distributed, torch.utils.data, torchinfo, ruamel.yaml
for module in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[module] = None
for name in (
    "chown chroot confstr ctermid fchdir fchmod fchown fork forkpty forkserver getegid geteuid getgid getgroups "
    "getloadavg getpgid getpgrp getpriority getresuid getsid getuid initgroups killpg lchown link lockf mkfifo mknod "
    "nice openpty pathconf pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv "
    "sched_getaffinity sched_setaffinity sched_yield sendfile setpriority setsid setuid statvfs symlink sync sysconf "
    "tcgetpgrp ttyname umask uname writev"
).split():
    if hasattr(os, name):
        delattr(os, name)
import signal
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGPIPE", "alarm", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
"""
COMMAND = f"{WITHOUT_POSIX}\nfrom tinyscene.cli import main\nmain()"


def run(program: str, cache: Path, *arguments: object, libraries: str = "") -> str:
    environment = os.environ | {"TINYSCENE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, libraries, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_classifies(bundle: Bundle, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 64_000), 32_000)
    result = json.loads(run(COMMAND, tmp_path, "classify", bundle.folder, tmp_path / "noise.wav", "--json"))
    assert len(result[0]["seconds"]) == 2


def test_it_prepares_and_trains(small_dataset: Path, tmp_path: Path) -> None:
    settings = [word for setting in (*QUICK, *TINY, "train.epochs=1") for word in ("--set", setting)]
    arguments = ("train", "nano", "--data", small_dataset, "--split", "5", "--out", tmp_path / "run", *settings)
    run(COMMAND, tmp_path / "cache", *arguments, libraries="torch")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_machine_is_described_without_its_load(tmp_path: Path) -> None:
    program = (
        "import tinyscene.benchmarks.latency\n"
        "from tinyscene.benchmarks.machine import machine\n"
        "print(machine()['load'], machine()['cores'])"
    )
    assert run(f"{WITHOUT_POSIX}\n{program}", tmp_path, libraries="torch") == f"None {os.cpu_count()}\n"
