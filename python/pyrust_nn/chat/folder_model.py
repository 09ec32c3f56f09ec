"""A model, an adapter or a quantized model in a folder that answers, by transformers."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation.streamers import BaseStreamer

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

logger = logging.getLogger(__name__)


class FolderModel:
    """Answers prompts, several at once if it always takes the likeliest token. The weights are loaded when the first is asked."""

    def __init__(self, model: str, base_model: str | None = None, device: str = "auto", dtype: str = "auto", parallel: int = 1) -> None:
        """`parallel`: prompts that are answered at once. Raises InputError or ModelError if the folder cannot be used."""
        self._parallel = parallel
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

    def resolved(self) -> dict[str, Any]:
        """Device and dtype of the computation, and how many prompts were answered at once."""
        return {"device": str(self._device), "dtype": dtype_name(self._model.dtype), "parallel": self._parallel}

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

    def answers(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], shown: AnswersInOrder) -> Iterator[dict[str, Any]]:
        """The answers in the order of the prompts. `samplings`, one for each, differ in their seeds only.

        Samples are drawn one prompt after the other, so that none depends on the others.
        """
        if prompts and self._parallel > 1 and (why := self._alone(samplings[0])) is not None:
            logger.debug("%s: prompts are answered one after the other", why)
            self._parallel = 1
        first = 0
        while first < len(prompts):
            batch = range(first, min(first + self._parallel, len(prompts)))
            texts = [_Shown(shown, index) for index in batch]
            try:
                answers = self._batch([prompts[index] for index in batch], samplings[first], texts)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                logger.warning("memory is not enough for %d prompts at once; they are answered one after the other", len(batch))
                self._parallel = 1
                texts[0].again()
                answers = self._batch([prompts[first]], samplings[first], texts[:1])
            for index, answer in zip(batch, answers, strict=False):
                shown.end(index)
                yield answer
            first += len(answers)

    def answer(
        self, prompt: list[int], sampling: Sampling, on_text: Callable[[str], None], stopped: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        """One answer; `stopped` is asked before each token whether to end it.

        `completion_tokens` includes the stop token; `finish_reason` is `length` if there was none.
        """
        return self._batch([prompt], sampling, [on_text], stopped)[0]

    def _alone(self, sampling: Sampling) -> str | None:
        """Why an answer would depend on others that are generated with it; None if it does not."""
        config = self._generation_config(sampling, 1)
        if config.do_sample:
            return "samples are drawn (temperature 0 takes the likeliest token)"
        if config.num_beams not in (None, 1):
            return "the model's generation config searches by beams"
        # They would count the padding as words of the prompt.
        return "words are penalized" if config.repetition_penalty not in (None, 1.0) or config.no_repeat_ngram_size else None

    def _batch(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        on_texts: Sequence[Callable[[str], None]],
        stopped: Callable[[], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers to several prompts, which are padded on the left to one length."""
        limit, longest = self.positions, max(map(len, prompts))
        rooms = [sampling.max_new_tokens if limit is None else min(sampling.max_new_tokens, limit - len(prompt)) for prompt in prompts]
        generation = self._generation_config(sampling, max(rooms))
        padding = generation.pad_token_id or 0
        ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts], device=self._device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self._device)
        ending = _Stopped(stopped) if stopped is not None else None
        parts = [_TextParts(self._tokenizer, on_text, sampling.stop) for on_text in on_texts]
        torch.manual_seed(sampling.seed)  # for each prompt, so that an answer does not depend on earlier prompts
        started = time.perf_counter()
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation,
                tokenizer=self._tokenizer,  # for stop_strings
                stopping_criteria=StoppingCriteriaList([ending] if ending else []),
                # Beams are complete only at the end.
                streamer=_Rows(parts, set(generation.eos_token_id)) if generation.num_beams in (None, 1) else None,
            )
        seconds = round(time.perf_counter() - started, 3)
        strings = generation.stop_strings or ()
        strings = (strings,) if isinstance(strings, str) else tuple(strings)
        answers = []
        for prompt, room, tokens in zip(prompts, rooms, output[:, longest:].tolist(), strict=True):
            completion, by_token = _until_end(tokens[:room], generation)
            if by_token and completion[-1] == padding and cut_at_stop(self._tokenizer.decode(completion[:-1]), strings)[1]:
                completion.pop()  # padding behind a stop string
            text, cut = cut_at_stop(self._tokenizer.decode(completion, skip_special_tokens=True), sampling.stop)
            complete = cut or by_token or text.endswith(strings)
            answers.append(
                {
                    "text": text,
                    "finish_reason": "stop" if complete else "stopped" if ending is not None and ending.ended else "length",
                    "prompt_tokens": len(prompt),
                    "completion_tokens": len(completion),
                    "seconds": seconds,
                }
            )
        return answers

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


def _until_end(tokens: list[int], generation: GenerationConfig) -> tuple[list[int], bool]:
    """The tokens of one answer up to its stop token, and whether there is one. Behind the end of an answer there is padding."""
    ends = set(generation.eos_token_id)
    for at, token in enumerate(tokens):
        if token in ends:
            return tokens[: at + 1], True
    while tokens and tokens[-1] == generation.pad_token_id:
        tokens = tokens[:-1]
    return tokens, False


def check_room(prompts: Sequence[list[int]], positions: int | None) -> None:
    """Raises InputError if a prompt leaves no room for an answer."""
    for index, prompt in enumerate(prompts):
        if positions is not None and len(prompt) >= positions:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens, and the model has {positions} positions, so no room is left "
                "for an answer; shorten it"
            )


class _Shown:
    """Shows the answer to one prompt."""

    def __init__(self, shown: AnswersInOrder, index: int) -> None:
        """Nothing is shown yet."""
        self._shown, self._index = shown, index
        self._passed = self._skipped = 0

    def __call__(self, text: str) -> None:
        """The next characters."""
        new = text[self._skipped :]
        self._skipped -= len(text) - len(new)
        self._passed += len(new)
        self._shown.text(self._index, new)

    def again(self) -> None:
        """The answer comes from its beginning again; what was shown of it is left out."""
        self._skipped = self._passed


class _Rows(BaseStreamer):
    """Passes the tokens of several answers on, each to its own streamer."""

    def __init__(self, rows: Sequence[_TextParts], ends: set[int]) -> None:
        """`ends`: the tokens after which a row has only padding."""
        self._rows, self._ends = rows, ends
        self._ended = [False] * len(rows)
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """The prompts, [rows, tokens]; then the next token of each row, [rows]."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for at, (row, token) in enumerate(zip(self._rows, value.reshape(-1), strict=True)):
            if not self._ended[at]:
                row.put(token[None])
                self._ended[at] = int(token) in self._ends

    def end(self) -> None:
        """All answers are complete."""
        for row in self._rows:
            row.end()


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
        """It gets the answer's tokens only."""
        super().__init__(tokenizer, skip_special_tokens=True)
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
