"""A model that another project's server serves, in processes of its own. Called by Rust (`served_model.rs`)."""

from __future__ import annotations

import json
import socket
from typing import Any

from pyrust_nn.llama.engine import Engine, EngineSettings
from pyrust_nn.serving import program_child
from pyrust_nn.serving.gguf_models import ServedModel, check_served, positions_of
from pyrust_nn.serving.programs import PROGRAMS, ServedArtifacts, find_program, llama_server


class ProgramEngine(Engine):
    """A running server of another project."""

    child_module = program_child

    def __init__(self, engine: str, program: str, served: ServedArtifacts) -> None:
        """Start it and wait until it answers. Raises SetupError if it cannot start."""
        self._engine_name, self._program, self._served = engine, program, served
        self.title = engine
        super().__init__(EngineSettings(served.model, served.ctx_size or 1, device=served.device))

    def _check(self) -> None:
        """The program was found before."""

    def _asked(self) -> dict[str, Any]:
        port = free_port()
        call = llama_server if self._engine_name == "llama-server" else PROGRAMS[self._engine_name][2]
        called = call(self._program, self._served, port, self.key)
        device = self._served.device
        return {"command": called.command, "environment": called.environment, "port": port, "health": "/health", "device": device}


def free_port() -> int:
    """A port of the loopback interface that nobody has. These programs do not tell which one they take of themselves."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class ProgramModel(ServedModel):
    """A model behind another project's server."""

    def __init__(self, params: dict[str, Any]) -> None:
        """`params` as in `start`."""
        engine, program = params["engine"], params["llama_server"]
        adapters = list(zip(params["adapter_names"], params["adapters"], strict=True))
        context = params["ctx_size"]
        if program:
            engine = "llama-server"
            context = positions_of(check_served(params["model"], params["adapters"], context), context)
        else:
            program = find_program(engine)
        served = ServedArtifacts(params["name"], params["model"], adapters, params["parallel"], context, params["device"])
        self.positions = context or 0
        self._engine = ProgramEngine(engine, program, served)


def start(params_json: str) -> ServedModel:
    """Start a model's server.

    params_json: `name`, `model` and `adapters` (paths), `adapter_names`, `engine`, `llama_server`, `parallel`, `ctx_size`, `device`.

    Raises ModelError, InputError or UsageError if a file or a parameter cannot be used, SetupError if the engine is not installed.
    """
    params = json.loads(params_json)
    own = params["engine"] == "llama" and not params["llama_server"]
    return ServedModel(params) if own else ProgramModel(params)
