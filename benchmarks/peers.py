"""The peers that cannot live in our environment: each gets one of its own, made on first use and kept.

LLaMA-Factory 0.9.5 needs torch and torchaudio 2.11.0 to import at all. llama.cpp comes as llama-cpp-python, built from its
source distribution (a C++ compiler, some ten minutes), which also has llama.cpp's own converter in it. The folder is
given by --environments; 8 GB, none of it in the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pyrust-nn-benchmarks"
LLAMA_FACTORY = ("llamafactory==0.9.5", "torch==2.11.0", "torchaudio==2.11.0")
LLAMA_CPP = "llama-cpp-python==0.3.36"


@dataclass(frozen=True)
class LlamaCpp:
    """Where llama.cpp is: a Python that has it, and its converter, a script for LLaMA-Factory's Python."""

    python: Path
    converter: Path


def llama_factory(environments: Path) -> Path:
    """The Python of an environment with LLaMA-Factory."""
    return _environment(environments / "llamafactory", *LLAMA_FACTORY)


def llama_cpp(environments: Path) -> LlamaCpp:
    """llama.cpp, built for this machine, with the converter of the same source."""
    source = environments / "llama-cpp-source"
    if not source.is_dir():
        partial = environments / "llama-cpp-source.partial"
        shutil.rmtree(partial, ignore_errors=True)
        pip = _environment(environments / "pip", "pip")
        words = ["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_CPP, "-d", str(partial)]
        subprocess.run([pip, "-m", "pip", *words], check=True)
        shutil.unpack_archive(next(partial.glob("*.tar.gz")), partial)
        (found,) = [path for path in partial.iterdir() if path.is_dir()]
        found.rename(source)
        shutil.rmtree(partial)
    python = _environment(environments / "llama-cpp", str(source))
    return LlamaCpp(python, source / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py")


def _environment(folder: Path, *packages: str) -> Path:
    """Make it unless it is whole."""
    python, whole = folder / "bin" / "python", folder / ".whole"
    if not whole.is_file():
        print(f"making {folder}: {' '.join(packages)}", flush=True)
        uv = [sys.executable, "-m", "uv"]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", version, folder], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        whole.touch()
    return python


def versions(python: Path, *packages: str) -> dict[str, str]:
    """The versions of packages in an environment."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
