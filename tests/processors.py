"""Settings under which numpy, OpenBLAS, torch and oneDNN compute as they do on other processors.

    python -m tests.processors [TESTS]   # tests that could depend on it, under each setting that this processor can run

A sum of floats depends on the order of its terms, and the order on vectors and threads.
"""

import os
import subprocess
import sys
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TESTS = (  # what could depend on it, and takes minutes at most
    *(f"tests/deploy/test_{name}.py" for name in ("fixed_point", "frontend", "golden", "reference", "resample")),
    *(f"tests/train/test_{name}.py" for name in ("augment", "calibrate", "distill", "export", "fake_quantize")),
    *(f"tests/train/test_{name}.py" for name in ("features", "loop", "lower", "quantize")),
)
SETTINGS = {  # name -> the processor's flag that it needs, and the environment
    "no AVX, 1 thread": (
        "sse4_1",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
            **dict.fromkeys(THREADS, "1"),
        },
    ),
    "AVX2, 2 threads": (
        "avx2",
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
            **dict.fromkeys(THREADS, "2"),
        },
    ),
    "AMD Zen, 1 thread": (
        "avx2",
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX",
            "OPENBLAS_CORETYPE": "Zen",
            **dict.fromkeys(THREADS, "1"),
        },
    ),
    "AVX-512, 2 threads": (
        "avx512vl",
        {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "OPENBLAS_CORETYPE": "SkylakeX",
            **dict.fromkeys(THREADS, "2"),
        },
    ),
}


def available() -> dict[str, dict[str, str]]:
    """The settings that this processor can run: name -> environment."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return {name: environment for name, (flag, environment) in SETTINGS.items() if flag in flags}


def main() -> None:
    failed = []
    for name in SETTINGS:
        if (environment := available().get(name)) is None:
            print(f"== {name}: skipped, this processor has no {SETTINGS[name][0]}", flush=True)
            continue
        print(f"== {name}: {environment}", flush=True)
        line = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *(sys.argv[1:] or TESTS)]
        if subprocess.run(line, env=os.environ | environment, check=False).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
