"""The servers of other projects: how each is called, and what it can serve.

Sources: llama.cpp `tools/server/README.md`, transformers `transformers serve --help` (5.23). vLLM was not run: it needs a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, SetupError, UsageError
from pyrust_nn.llama.engine import threads
from pyrust_nn.models.adapter_folder import ADAPTER_CONFIG, adapter_base
from pyrust_nn.models.model_folder import read_json
from pyrust_nn.models.tiny import TINY_MODEL

PARENTS = "parents"
"""The folder of an adapter that was trained on top of others."""

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's --max-lora-rank that all its versions have."""


@dataclass(frozen=True)
class ServedArtifacts:
    """What a server is started for. `model` is a folder, of llama.cpp a GGUF file; adapters are pairs of a name and a folder or file."""

    name: str
    model: str
    adapters: Sequence[tuple[str, str]]
    parallel: int
    ctx_size: int | None
    device: str


@dataclass(frozen=True)
class ProgramCall:
    """A program with its arguments and the variables that are added to its environment. The key is never an argument."""

    command: list[str]
    environment: dict[str, str]


def llama_server(program: str, served: ServedArtifacts, port: int, key: str) -> ProgramCall:
    """llama.cpp's server, which the user built. Flags that only some releases have are given where `--help` names them."""
    path, known = checked_llama_server(program)
    count = str(threads())
    command = [path, "--model", served.model, "--alias", served.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--parallel", str(served.parallel), "--threads", count, "--threads-batch", count, "--jinja", "--metrics", "--no-slots"]
    assert served.ctx_size is not None
    command += ["--ctx-size", str(-(-served.ctx_size // 256) * 256 * served.parallel)]
    if served.device == "cpu":
        command += ["--n-gpu-layers", "0"]
    for _, file in served.adapters:
        command += ["--lora", file]
    optional = [["--no-webui"], ["--no-ui"], ["--no-warmup"], ["--no-kv-unified"], ["--cache-ram", "0"], ["--fit", "off"]]
    optional += [["--lora-init-without-apply"]] if served.adapters else []
    for words in optional:
        command += words if words[0] in known else []
    return ProgramCall(command, {"LLAMA_API_KEY": key, "OMP_WAIT_POLICY": "passive", **only_gpu(served.device)})


def checked_llama_server(program: str) -> tuple[str, str]:
    """The path of a llama-server, and what it says of its flags. Raises UsageError if it is none. Called by Rust, before a step begins."""
    fix = "give the path of llama.cpp's llama-server"
    found = shutil.which(program)
    if found is None:
        raise UsageError(f"llama_server is {program}, which is no program here; {fix}")
    try:
        done = subprocess.run([found, "--help"], capture_output=True, text=True, errors="replace", timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{program} --help does not run: {error}; {fix}") from None
    said = done.stdout + done.stderr
    if "--ctx-size" not in said:
        raise UsageError(f"{program} has no flag --ctx-size, so it is no llama-server; {fix}")
    return found, said


def vllm(program: str, served: ServedArtifacts, port: int, key: str) -> ProgramCall:
    """vLLM's server for a folder and the adapters on it."""
    command = [program, "serve", served.model, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", served.name]
    command += ["--max-num-seqs", str(served.parallel)]
    if served.ctx_size is not None:
        command += ["--max-model-len", str(served.ctx_size)]
    if served.adapters:
        most = max(largest_rank(Path(folder)) for _, folder in served.adapters)
        if most > VLLM_RANKS[-1]:
            raise InputError(f"an adapter has rank {most}, and vLLM serves ranks up to {VLLM_RANKS[-1]}; merge it first")
        rank = next(rank for rank in VLLM_RANKS if rank >= most)
        command += ["--enable-lora", "--max-loras", str(len(served.adapters)), "--max-lora-rank", str(rank), "--lora-modules"]
        command += [json.dumps({"name": name, "path": folder, "base_model_name": served.name}) for name, folder in served.adapters]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return ProgramCall(command, {"VLLM_API_KEY": key, **quiet, **only_gpu(served.device)})


def transformers(program: str, served: ServedArtifacts, port: int, _key: str) -> ProgramCall:
    """transformers' server for one folder. It knows no keys, and no adapters."""
    device = "cuda" if served.device.startswith("cuda") else served.device
    command = [program, "serve", served.model, "--host", "127.0.0.1", "--port", str(port), "--device", device]
    return ProgramCall(command, {"HF_HUB_DISABLE_TELEMETRY": "1", **only_gpu(served.device)})


def only_gpu(device: str) -> dict[str, str]:
    """Shows a program the GPU that is meant, and no other."""
    number = device.partition(":")[2] if device.startswith("cuda:") else ""
    return {"CUDA_VISIBLE_DEVICES": number} if number else {}


PROGRAMS: Mapping[str, tuple[str, str, Callable[[str, ServedArtifacts, int, str], ProgramCall]]] = {
    "vllm": ("vllm", "pip install vllm, in an environment of its own if it needs another torch; it is found on PATH", vllm),
    "transformers": ("transformers", "pip install 'transformers[serving]'", transformers),
}
"""For each engine its program, how it is installed, and its call."""


def find_program(engine: str) -> str:
    """The program of an engine: that of the Python environment, else the one on PATH. Raises SetupError if it is not installed."""
    name, install, _ = PROGRAMS[engine]
    own = Path(sysconfig.get_path("scripts")) / name
    found = str(own) if os.access(own, os.X_OK) else shutil.which(name)
    if found is None:
        raise SetupError(f"engine {engine} needs the program {name}, which is not installed: {install}")
    needed = ["fastapi", "uvicorn"] if engine == "transformers" and found == str(own) else []
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise SetupError(f"engine {engine} needs {' and '.join(missing)}: {install}")
    return found


def check_folders(engine: str, model: str, adapters_json: str) -> None:
    """Check that an engine can serve a model's folder and these adapters, before a step begins. Called by Rust.

    Raises InputError or ModelError if the artifacts do not fit it, SetupError if it is not installed.
    """
    adapters: list[str] = json.loads(adapters_json)
    given = [*adapters, *([model] if (Path(model) / ADAPTER_CONFIG).is_file() else [])]
    if engine == "transformers" and given:
        raise UsageError(f"engine transformers serves whole models, and {given[0]} is an adapter: merge it first, with `pyrust-nn merge`")
    for adapter in given:
        check_plain_adapter(engine, Path(adapter))
    if engine == "vllm" and (Path(model) / ADAPTER_CONFIG).is_file():
        raise UsageError(f"engine vllm serves an adapter beside its base: -m {adapter_base(model)} --adapter {model}")
    for adapter in adapters:
        check_template(Path(model), Path(adapter))
    find_program(engine)


def check_plain_adapter(engine: str, adapter: Path) -> None:
    """Raises InputError for an adapter that PEFT's format does not hold whole, or whose base others do not find."""
    why = ""
    if (adapter / PARENTS).is_dir():
        why = "it was trained on top of other adapters"
    elif adapter_base(str(adapter)) == TINY_MODEL:
        why = f"its base is {TINY_MODEL}, which only this program makes"
    if why:
        raise InputError(f"engine {engine} cannot serve adapter {adapter}: {why}; merge it, and serve the merged model")


def check_template(model: Path, adapter: Path) -> None:
    """vLLM renders requests to an adapter with the template of the base. Raises InputError if the adapter has another."""
    texts = [
        path.read_text(encoding="utf-8") for path in (model / "chat_template.jinja", adapter / "chat_template.jinja") if path.is_file()
    ]
    if len(texts) == 2 and texts[0] != texts[1]:
        raise InputError(f"adapter {adapter} has another chat template than {model}, and vLLM uses that; merge the adapter first")


def largest_rank(adapter: Path) -> int:
    """The largest rank of an adapter's matrices."""
    config: dict[str, Any] = read_json(adapter / ADAPTER_CONFIG)
    return max([int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())])
