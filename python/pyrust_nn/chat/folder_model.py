"""A model, an adapter or a quantized model in a folder that answers, by transformers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextStreamer

from pyrust_nn import InputError
from pyrust_nn.chat.renderer import ChatRenderer
from pyrust_nn.chat.sampling import Sampling, cut_at_stop, held_back
from pyrust_nn.chat.streaming import AnswersInOrder
from pyrust_nn.models.adapter_folder import check_base_model
from pyrust_nn.models.devices import dtype_name, pick_device, pick_dtype
from pyrust_nn.models.generation import end_of_turn, set_stop_tokens
from pyrust_nn.models.loading import load_model, position_limit
from pyrust_nn.models.tokenizers import shared_tokenizer, tokenizer_folder
from pyrust_nn.types import Conversation


class FolderModel:
    """Answers one prompt after the other. The weights are loaded when the first is asked."""

    def __init__(self, model: str, base_model: str | None = None, device: str = "auto", dtype: str = "auto") -> None:
        """Raises InputError or ModelError if the folder cannot be used."""
        self._name, self._base_model = model, base_model
        self._device = pick_device(device)
        self._dtype = pick_dtype(dtype, self._device)
        check_base_model(model, base_model)
        self._tokenizer: Any = shared_tokenizer(model, base_model)
        self._renderer = ChatRenderer(self._tokenizer)
        self._end = end_of_turn(tokenizer_folder(model, base_model))

    def __enter__(self) -> FolderModel:
        """For a `with` statement, as for a model in llama.cpp."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing is left open."""

    @cached_property
    def _model(self) -> Any:
        return load_model(self._name, device=self._device, dtype=self._dtype, base_model=self._base_model)

    @cached_property
    def positions(self) -> int | None:
        """The most tokens that prompt and answer may have together; None: no limit."""
        return position_limit(self._model.config)

    def resolved(self) -> dict[str, str]:
        """Device and dtype of the computation."""
        return {"device": str(self._device), "dtype": dtype_name(self._model.dtype)}

    def encode(self, conversations: Sequence[Conversation], template_kwargs: Mapping[str, Any] | None = None) -> list[list[int]]:
        """Each prompt's token ids up to the beginning of the answer. A prompt's own template variables take precedence.

        Raises InputError if the template refuses one, or if one leaves no room for an answer.
        """
        prompts = []
        for index, conversation in enumerate(conversations):
            own = conversation.get("chat_template_kwargs", {})
            messages, options = self._renderer.arguments({**conversation, "chat_template_kwargs": {**(template_kwargs or {}), **own}})
            text = self._renderer.render(messages, f"[{index}]", prompt=True, options=options)
            prompts.append(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        check_room(prompts, self.positions)
        return prompts

    def answers(self, prompts: Sequence[list[int]], sampling: Sampling, shown: AnswersInOrder) -> Iterator[dict[str, Any]]:
        """The answers, one after the other."""
        for index, prompt in enumerate(prompts):
            answer = self.answer(prompt, sampling, lambda text, index=index: shown.text(index, text))  # type: ignore[misc]
            shown.end(index)
            yield answer

    def answer(
        self, prompt: list[int], sampling: Sampling, on_text: Callable[[str], None], stopped: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        """One answer; `stopped` is asked before each token whether to end it.

        `completion_tokens` includes the stop token; `finish_reason` is `length` if there was none.
        """
        limit = self.positions
        room = sampling.max_new_tokens if limit is None else min(sampling.max_new_tokens, limit - len(prompt))
        generation = self._generation_config(sampling, room)
        ids = torch.tensor([prompt], device=self._device)
        ending = _Stopped(stopped) if stopped is not None else None
        torch.manual_seed(sampling.seed)  # for each prompt, so that an answer does not depend on earlier prompts
        started = time.perf_counter()
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation,
                tokenizer=self._tokenizer,  # for stop_strings
                stopping_criteria=StoppingCriteriaList([ending] if ending else []),
                # Beams are complete only at the end.
                streamer=_TextParts(self._tokenizer, on_text, sampling.stop) if generation.num_beams in (None, 1) else None,
            )
        completion = output[0, len(prompt) :].tolist()
        text, cut = cut_at_stop(self._tokenizer.decode(completion, skip_special_tokens=True), sampling.stop)
        own = generation.stop_strings or ()
        by_token = bool(completion) and completion[-1] in generation.eos_token_id
        complete = cut or by_token or text.endswith((own,) if isinstance(own, str) else tuple(own))
        reason = "stop" if complete else "stopped" if ending is not None and ending.ended else "length"
        return {
            "text": text,
            "finish_reason": reason,
            "prompt_tokens": len(prompt),
            "completion_tokens": len(completion),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _generation_config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        """The model's own generation config, changed by the parameters."""
        config = copy.deepcopy(self._model.generation_config)
        config.max_length, config.max_new_tokens = None, max_new_tokens
        if sampling.temperature == 0:
            config.do_sample, config.temperature, config.top_p, config.top_k, config.min_p = False, None, None, None, None
        else:
            for name in ("temperature", "top_p", "top_k", "min_p"):
                if (value := getattr(sampling, name)) is not None:
                    # A sampling parameter implies sampling.
                    config.do_sample = True
                    setattr(config, name, value)
        if sampling.repetition_penalty is not None:
            config.repetition_penalty = sampling.repetition_penalty
        if sampling.stop:
            own = config.stop_strings or []
            config.stop_strings = [*([own] if isinstance(own, str) else own), *sampling.stop]
        set_stop_tokens(config, self._tokenizer, self._end)
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id
        return config


def check_room(prompts: Sequence[list[int]], positions: int | None) -> None:
    """Raises InputError if a prompt leaves no room for an answer."""
    for index, prompt in enumerate(prompts):
        if positions is not None and len(prompt) >= positions:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens, and the model has {positions} positions, so no room is left "
                "for an answer; shorten it"
            )


class _Stopped(StoppingCriteria):
    """Ends an answer when the caller says so."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        """`stopped` is asked after each token."""
        self._stopped = stopped
        self.ended = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **more: Any) -> Any:
        """Called by `generate` after each token."""
        self.ended = self.ended or self._stopped()
        return torch.full((input_ids.shape[0],), self.ended, device=input_ids.device, dtype=torch.bool)


class _TextParts(TextStreamer):
    """Passes an answer on word by word, without what may become a stop string."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None], stop: Sequence[str]) -> None:
        """Skips the prompt."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text, self._stop = on_text, stop
        self._text, self._passed = "", 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with complete words."""
        self._text += text
        known, cut = cut_at_stop(self._text, self._stop)
        end = len(known) if cut or stream_end else len(known) - held_back(known, self._stop)
        if end > self._passed:
            self._on_text(known[self._passed : end])
            self._passed = end
