"""What answers: a GGUF file by llama.cpp, or a folder by transformers. `scripts/inference.py` asks it, and the command `chat`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pyrust_nn import UsageError
from pyrust_nn._runtime.environment import step_environment
from pyrust_nn._runtime.imports import fast_imports
from pyrust_nn.chat.sampling import Sampling

if TYPE_CHECKING:
    from pyrust_nn.chat.folder_model import FolderModel
    from pyrust_nn.llama.model import LlamaModel

PARALLEL = 8
"""Prompts that are answered at once if `parallel` is unset."""


def answering_model(params: Any, prompts: int = 1, conversation: bool = False) -> LlamaModel | FolderModel:
    """What answers this many prompts, or continues a conversation.

    torch and transformers are imported for folders only, because that takes seconds. Raises UsageError for a parameter of the other kind.
    """
    if params.model.lower().endswith(".gguf"):
        _refuse(params, "a folder, and the model is a GGUF file", "base_model", dtype="auto")
        from pyrust_nn.llama.model import LlamaModel, paired

        return LlamaModel(
            params.model,
            paired(params.adapter, params.adapter_scale),
            device=params.device,
            parallel=min(params.parallel or PARALLEL, prompts),
            answer_tokens=params.max_new_tokens,
            conversation=conversation,
        )
    _refuse(params, "a GGUF file, and the model is a folder", "adapter", "adapter_scale")
    with fast_imports():
        from pyrust_nn.chat.folder_model import FolderModel

    return FolderModel(params.model, params.base_model, params.device, params.dtype, min(params.parallel or PARALLEL, prompts))


def _refuse(params: Any, needs: str, *unset: str, **defaults: Any) -> None:
    """Raise UsageError if one of these parameters has another value than its default."""
    for name, default in {**dict.fromkeys(unset), **defaults}.items():
        if getattr(params, name) != default:
            raise UsageError(f"{name} is for {needs}; leave it out")


class ChatModel:
    """The model of a conversation in the terminal. Called by Rust."""

    def __init__(self, params_json: str) -> None:
        """Load the model. Parameters are those of `inference`, with resolved paths."""
        given = json.loads(params_json)
        params = SimpleNamespace(parallel=None, **given)
        self._open = contextlib.ExitStack()
        try:
            self._open.enter_context(step_environment(given["offline"]))
            self._model = answering_model(params, conversation=True)
            self._open.callback(self._model.__exit__)
            self.positions = self._model.positions  # which loads a folder's weights
        except BaseException:
            self._open.close()
            raise

    def answer(self, messages_json: str, params_json: str, on_text: Callable[[str], None]) -> str:
        """The next answer as JSON, as in `inference`. After Ctrl-C: what there is of it, with the `finish_reason` stopped."""
        params = SimpleNamespace(**json.loads(params_json))
        pieces: list[str] = []

        def show(text: str) -> None:
            pieces.append(text)
            on_text(text)

        try:
            (prompt,) = self._model.encode([{"messages": json.loads(messages_json)}], params.template_kwargs)
            return json.dumps(self._model.answer(prompt, Sampling.of(params), show))
        except KeyboardInterrupt as cause:
            if str(cause) not in ("", "SIGINT"):
                raise
            return json.dumps({"text": "".join(pieces), "finish_reason": "stopped"})

    def close(self) -> None:
        """End llama.cpp."""
        self._open.close()
