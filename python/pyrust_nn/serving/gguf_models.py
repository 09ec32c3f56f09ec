"""A model in GGUF with adapters in GGUF, run by llama.cpp for `serve`. Called by Rust (`served_model.rs`), which passes requests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyrust_nn import InputError, UsageError, _core
from pyrust_nn.llama.engine import Engine, EngineSettings, ServerEndedError
from pyrust_nn.llama.gguf_model_file import GgufModelFile, check_adapter

POSITIONS = 8192
"""The positions of an answer if `ctx_size` is unset and the model has more: their cache takes memory whether they are used or not."""


def check_served(model: str, adapters: Sequence[str], ctx_size: int | None) -> GgufModelFile:
    """The file, if it can be served with these adapters and this many positions. Called by Rust too, before a step begins.

    Raises ModelError, InputError or UsageError if not.
    """
    file = GgufModelFile(model)
    file.check_template()
    for adapter in adapters:
        check_adapter(adapter, file)
    if ctx_size is not None and ctx_size > file.positions:
        raise UsageError(f"ctx_size is {ctx_size}, and {file.path} has {file.positions} positions; give at most these")
    return file


def positions_of(file: GgufModelFile, ctx_size: int | None) -> int:
    """The positions of prompt and answer."""
    return ctx_size or min(POSITIONS, file.positions)


class ServedModel:
    """A running llama.cpp. An adapter is used by the requests that name its index in `lora`, and by no others."""

    positions: int
    """Those of prompt and answer; 0 where the engine decides."""
    _engine: Engine

    def __init__(self, params: dict[str, Any]) -> None:
        """`model` and `adapters` are paths, `name` is the model's in answers.

        Raises ModelError, InputError or UsageError if a file or a parameter cannot be used, SetupError without xllamacpp.
        """
        file = check_served(params["model"], params["adapters"], params["ctx_size"])
        self.positions = positions_of(file, params["ctx_size"])
        adapters = [(adapter, 0.0) for adapter in params["adapters"]]
        common = (str(file.path), self.positions, params["parallel"], adapters, params["device"])
        self._engine = Engine(EngineSettings(*common, served_as=params["name"]))

    def address(self) -> tuple[str, str, str]:
        """Host and port, the key, and what computes."""
        return self._engine.address.removeprefix("http://"), self._engine.key, self._engine.device

    def wait_and_restart(self) -> str | None:
        """Return when llama.cpp has ended and was started again: how it ended. None if `close` ended it.

        Raises ModelError if it had been started again before.
        """
        self._engine.wait()
        try:
            return self._engine.revived()
        except ServerEndedError:
            return None

    def close(self) -> None:
        """End llama.cpp."""
        self._engine.close()


def first_model_for(adapter: str, models_json: str) -> int:
    """The index of the first of several models that an adapter fits, by architecture and shapes.

    Raises InputError if there is none.
    """
    header = _core.gguf_header(adapter, arrays=False)
    # Shapes are outermost dimension first: a linear layer's last one is its input's, as in the A matrix. An embedding's are the other way.
    linear = [one for one in header["tensors"] if one["name"].endswith(".lora_a") and not one["name"].startswith("token_embd")]
    wanted = {tensor["name"].removesuffix(".lora_a"): tensor["shape"][-1] for tensor in linear}
    models: list[str] = json.loads(models_json)
    for index, model in enumerate(models):
        own: Mapping[str, Any] = _core.gguf_header(model, arrays=False)
        shapes = {tensor["name"]: tensor["shape"] for tensor in own["tensors"]}
        same = own["keys"].get("general.architecture") == header["keys"].get("general.architecture")
        if same and all(name in shapes and shapes[name][-1] == columns for name, columns in wanted.items()):
            return index
    raise InputError(f"{adapter} fits none of the models; give its own base as `model` too")
