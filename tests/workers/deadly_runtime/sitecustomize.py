"""Python runs this first where this folder is on its path: ONNX Runtime then dies on any network that says `deadly`."""

import os
import signal
import sys
from pathlib import Path

if "--measure" in sys.orig_argv:
    import onnxruntime

    _real = onnxruntime.InferenceSession

    def _dies(network: str, *rest: object, **options: object) -> object:
        if b"deadly" in Path(network).read_bytes():
            os.kill(os.getpid(), signal.SIGSEGV)
        return _real(network, *rest, **options)

    onnxruntime.InferenceSession = _dies
