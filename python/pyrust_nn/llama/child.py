"""The process in which llama.cpp runs: it starts llama.cpp's server and keeps it until standard input ends.

This file is executed as it is, by the environment's Python, and imports nothing of this package. The first line of standard input is
a JSON object: `settings`, values of xllamacpp's parameters by their names (`cpuparams.n_threads` is one of a part), `adapters`, a list
of [path, scale], and `gpu`, whether a GPU is demanded. Standard output is a line `READY ` with the server's address and the device:
`cpu`, or the name of a GPU such as `cuda0`. Everything that
llama.cpp says is on standard error.
"""

import json
import os
import sys


def parameters(asked):
    """xllamacpp's parameters. The only place that sets them: their names change from release to release."""
    import xllamacpp

    common = xllamacpp.CommonParams()
    for name, value in asked["settings"].items():
        *parts, last = name.split(".")
        target = common
        for part in parts:
            target = getattr(target, part, None)
        if not hasattr(target, last):
            raise SystemExit(f"xllamacpp {xllamacpp.__version__} has no parameter {name}; install pyrust-nn[llama], which pins the version")
        setattr(target, last, value)
    if asked["adapters"]:
        common.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in asked["adapters"]]
    if asked["gpu"] and device(asked) == "cpu":
        raise SystemExit("this xllamacpp computes on the CPU only; leave out the device, or install a build of xllamacpp for the GPU")
    return common


def device(asked):
    """What computes."""
    import xllamacpp

    names = [one["name"].lower() for one in xllamacpp.get_device_info() if "_GPU" in one["type"].name]
    return names[0] if names and asked["settings"].get("n_gpu_layers") != 0 else "cpu"


def main():
    """Start, say where, wait."""
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing else may write there
    asked = json.loads(sys.stdin.readline())

    import xllamacpp

    server = xllamacpp.Server(parameters(asked))
    os.write(answer, f"READY {server.listening_address} {device(asked)}\n".encode())
    sys.stdin.read()  # until the parent ends, however it ends
