"""What a device runs: the front end, the exported model and its runners. numpy only; never imports torch."""

import os

# else ONNX Runtime reports its use to its makers from its import on, and keeps an identifier of the machine
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
