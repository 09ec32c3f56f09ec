"""Encoding of GGUF's block formats on one core, beside llama.cpp's `ggml_quantize_chunk`.

    python benchmarks/export.py             # `make bench-export`, a few minutes

Ours is `_core.gguf_encode` with each of its forms; the peer is the function that the wheel `xllamacpp` exports, llama.cpp's own build
for x86 processors with AVX2. Both encode the same matrix in turn; CPU time of the thread counts, and the fastest of the rounds. The
bytes are compared.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from machine import described, save

from pyrust_nn import PyrustNNError, _core

ROWS, COLUMNS = 1024, 2048


def ggml() -> Callable[..., int]:
    """`ggml_quantize_chunk` of the installed wheel."""
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None, "xllamacpp is not installed"
    (library,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    function = ctypes.CDLL(str(library)).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measured(name: str, rows: np.ndarray, importance: np.ndarray | None, rounds: int, peer: Callable[..., int]) -> dict[str, Any]:
    """Millions of weights per second of both, and the ratio."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(rows.size // block * size, np.uint8)
    weights = None if importance is None else importance.ctypes.data

    def theirs() -> None:
        peer(kind, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, weights)

    def ours(form: str) -> bytes:
        return _core.gguf_encode(name, rows, importance, form)

    forms = [form for form in ("plain", "avx2", "avx512") if supported(form)]
    best = dict.fromkeys(["peer", *forms], float("inf"))
    for _ in range(rounds):
        best["peer"] = min(best["peer"], seconds(theirs))
        for form in forms:
            best[form] = min(best[form], seconds(lambda form=form: ours(form)))
    theirs()
    rates = {who: round(rows.size / taken / 1e6, 1) for who, taken in best.items()}
    return {
        "million_weights_per_second": rates,
        "times_the_peer": {form: round(best["peer"] / best[form], 2) for form in forms},
        "different_bytes": int((np.frombuffer(ours(forms[-1]), np.uint8) != out).sum()),
    }


def supported(form: str) -> bool:
    """Whether this processor executes a form."""
    try:
        _core.gguf_encode("Q4_0", np.zeros((1, 32), np.float32), None, form)
    except PyrustNNError:
        return False
    return True


def main() -> None:
    """Measure every format, print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float16).astype(np.float32)
    importance = (rng.random(COLUMNS) ** 2).astype(np.float32)
    peer, results = ggml(), {}
    for name in (kind["name"] for kind in _core.gguf_types() if kind["block"] > 1):
        for weights in (None, importance):
            label = name if weights is None else f"{name} with importance"
            results[label] = measured(name, rows, weights, arguments.rounds, peer)
            print(label, results[label], flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("xllamacpp", "gguf")}
    save("export", {"machine": described(), "peers": versions, "rounds": arguments.rounds, "encoding": results})


if __name__ == "__main__":
    main()
