"""The model that a file must be: its weights, its predictions, its tokenizer and its stop tokens, by transformers and peft."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.models.adapter_folder import check_base_model, is_adapter, whole_folder
from pyrust_nn.models.generation import END_TOKENS, end_of_turn
from pyrust_nn.models.loading import load_model, stored_dtype, stored_shapes
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.model_folder import model_folder, quantization
from pyrust_nn.models.tokenizers import shared_tokenizer, tokenizer_folder
from pyrust_nn.proof.answers import Answer, reference_answers
from pyrust_nn.proof.conversations import Encode, encoder, prompt_conversations, rendered_prompt


class Reference:
    """A model, or an adapter with its base. Everything is loaded when it is asked for first."""

    def __init__(self, model: str, base_model: str | None, device: torch.device) -> None:
        """Raises InputError if its weights are quantized, because nothing can be proven by them."""
        check_base_model(model, base_model)
        self.name, self.base_model, self.device = model, base_model, device
        self.is_adapter = is_adapter(model)
        self.folder = model_folder(model)
        self.whole = whole_folder(model, base_model)
        if quantization(self.whole) is not None:
            raise InputError(f"{self.whole} is quantized, so it proves nothing; give the plain model from which it was made")
        self.tokenizer_folder: Path = tokenizer_folder(model, base_model)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype in which most of the weights are stored; that of an adapter's base, to which a merge rounds."""
        return stored_dtype(str(self.whole))

    def lacking_memory(self) -> str | None:
        """Why there is no room for this model and another of its size in float32; None if there is, or if it is not known."""
        needed = 2 * 4 * sum(map(math.prod, stored_shapes(self.whole).values()))
        meminfo = Path("/proc/meminfo")
        if not meminfo.is_file():
            return None
        free = next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        return f"needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free" if needed > free else None

    @cached_property
    def model(self) -> Any:
        """The model in float32; for an adapter the base with the adapter beside it, not merged."""
        return load_model(self.name, device=self.device, dtype=torch.float32, base_model=self.base_model)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """Every parameter in float32 on the CPU, by its name in transformers; those of an adapter are merged. Tied ones are there once."""
        merged = merged_model(self.name, torch.device("cpu"), torch.float32, self.base_model) if self.is_adapter else self.model
        return plain_weights(merged)

    @property
    def blocks(self) -> int:
        """The number of transformer blocks."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer in transformers."""
        return shared_tokenizer(self.name, self.base_model)

    @cached_property
    def encode(self) -> Encode:
        """Encodes texts as the model's tokenizer.json says."""
        return encoder(self.tokenizer_folder, self.tokenizer)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that closes an answer in the chat template; None if there is none."""
        end = end_of_turn(self.tokenizer_folder)
        return None if end is None else self.tokenizer.backend_tokenizer.token_to_id(end)

    @cached_property
    def stop_tokens(self) -> set[int]:
        """Every token that may end an answer."""
        known = self.tokenizer.backend_tokenizer.token_to_id
        stops = {known(token) for token in END_TOKENS} | {self.end_of_turn, self.tokenizer.eos_token_id}
        stops |= model_stop_tokens(self.model)
        return {token for token in stops if token is not None}

    @cached_property
    def conversations(self) -> list[list[dict[str, str]]]:
        """The conversations whose tokens are compared; none without a chat template."""
        return [] if self.tokenizer.chat_template is None else prompt_conversations(self.tokenizer, self.encode)

    @cached_property
    def conversation_tokens(self) -> list[list[int]]:
        """Their token ids as prompts."""
        return [rendered_prompt(self.tokenizer, self.encode, one) for one in self.conversations]

    def answers(self, prompts: list[list[int]], found: list[Answer]) -> list[Answer]:
        """The model's greedy answers beside those of a candidate."""
        return reference_answers(self.model, prompts, found, self.stop_tokens)


def model_stop_tokens(model: Any) -> set[int]:
    """The tokens at which a loaded model's generation ends."""
    stops = None if model.generation_config is None else model.generation_config.eos_token_id
    return {stops} if isinstance(stops, int) else set(stops or ())


def plain_weights(model: Any) -> dict[str, torch.Tensor]:
    """A model's parameters on the CPU, as float32. Names follow `state_dict`; of tied parameters only the first is kept."""
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        weights[name] = tensor.detach().to("cpu", torch.float32)
    return weights
