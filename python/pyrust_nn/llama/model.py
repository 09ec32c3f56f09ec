"""A model in a GGUF file that answers, with adapters in GGUF, by llama.cpp. Template, stop tokens and sampling are those of the file."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyrust_nn import InputError
from pyrust_nn.chat.sampling import Sampling
from pyrust_nn.chat.streaming import AnswersInOrder
from pyrust_nn.llama.engine import MOST_PARALLEL, Engine, EngineSettings, ServerEndedError
from pyrust_nn.llama.gguf_model_file import GgufModelFile, check_adapter
from pyrust_nn.types import Conversation

TEMPLATE_TOKENS = 512
"""A guess of what a template adds to a prompt. If a prompt has more, llama.cpp is started again with more room."""
CONVERSATION_POSITIONS = 4096
"""The least room of a conversation."""
WATCH_SECONDS = 0.05
"""How often `stopped` is asked while no text comes."""


class LlamaModel:
    """Answers several prompts at once. llama.cpp is started when the first are encoded."""

    def __init__(
        self,
        path: str,
        adapters: Sequence[tuple[str, float]] = (),
        *,
        device: str = "auto",
        parallel: int = 1,
        answer_tokens: int = 0,
        conversation: bool = False,
    ) -> None:
        """There is room for the prompts, each with `answer_tokens` more.

        `conversation`: each prompt continues the one before, of which llama.cpp keeps what it computed. That is faster, and an answer may
        differ in the last bits from that of the prompt alone.

        Raises ModelError or InputError if a file cannot be used.
        """
        self._file = GgufModelFile(path)
        self._file.check_template()
        for adapter, scale in adapters:
            check_adapter(adapter, self._file)
            if not math.isfinite(scale):
                raise InputError(f"the scale of adapter {adapter} is {scale}; give a number")
        self._adapters, self._device, self._conversation = list(adapters), device, conversation
        self._parallel = max(1, min(parallel, MOST_PARALLEL))
        self._answer_tokens = answer_tokens
        self._engine: Engine | None = None

    def __enter__(self) -> LlamaModel:
        """For a `with` statement, at whose end llama.cpp is ended."""
        return self

    def __exit__(self, *raised: object) -> None:
        """End llama.cpp."""
        self.close()

    def close(self) -> None:
        """End llama.cpp."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def positions(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self._file.positions

    def resolved(self) -> dict[str, Any]:
        """What computed, and how many prompts at once."""
        return {"parallel": self._parallel, **({"device": self._engine.device} if self._engine else {})}

    def _running(self, context: int) -> Engine:
        """llama.cpp with at least this many positions a prompt."""
        if self._engine is None or self._engine.settings.context < context:
            if self._conversation:  # it will grow
                context = min(max(2 * context, CONVERSATION_POSITIONS), self.positions)
            self.close()
            self._engine = Engine(EngineSettings(str(self._file.path), context, self._parallel, self._adapters, self._device))
        return self._engine

    def encode(self, conversations: Sequence[Conversation], template_kwargs: Mapping[str, Any] | None = None) -> list[list[int]]:
        """Each prompt's token ids up to the beginning of the answer. A prompt's own template variables take precedence.

        Raises InputError if the template refuses one, or if one leaves no room for an answer.
        """
        # A token has at least a byte, and seldom less than three of a long text.
        sizes = [sum(len(str(message.get("content") or "").encode()) for message in one["messages"]) for one in conversations]
        guess = min(max(size if size < 4096 else size // 2 for size in sizes) + TEMPLATE_TOKENS + self._answer_tokens, self.positions)
        engine = self._running(guess)
        prompts = [self._encode(engine, index, one, template_kwargs or {}) for index, one in enumerate(conversations)]
        for index, prompt in enumerate(prompts):
            if len(prompt) >= self.positions:
                raise InputError(
                    f"prompt {index} has {len(prompt)} tokens, and the model has {self.positions} positions, so no room is left "
                    "for an answer; shorten it"
                )
        self._running(min(max(map(len, prompts), default=0) + self._answer_tokens, self.positions))
        return prompts

    def _encode(self, engine: Engine, index: int, conversation: Conversation, template_kwargs: Mapping[str, Any]) -> list[int]:
        one: Mapping[str, Any] = conversation
        variables = {**template_kwargs, **one.get("chat_template_kwargs", {})}
        if one.get("documents"):
            variables["documents"] = one["documents"]
        messages = [{name: value for name, value in message.items() if name != "train"} for message in one["messages"]]
        body = {"messages": messages, "chat_template_kwargs": variables, **({"tools": one["tools"]} if one.get("tools") else {})}
        try:
            text = engine.post("/apply-template", body)["prompt"]
        except InputError as cause:
            raise InputError(f"conversation [{index}]: {cause}; change it or leave it out") from cause
        tokens: list[int] = engine.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        return tokens

    def answers(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], shown: AnswersInOrder) -> Iterator[dict[str, Any]]:
        """The answers in the order of the prompts, `parallel` of them at once; `samplings` has one for each."""

        ended = threading.Event()

        def one(index: int) -> dict[str, Any]:
            answer = self.answer(prompts[index], samplings[index], lambda text: shown.text(index, text), ended.is_set)
            shown.end(index)
            return answer

        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                yield from pool.map(one, range(len(prompts)))
            except BaseException:
                ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def answer(
        self, prompt: list[int], sampling: Sampling, on_text: Callable[[str], None], stopped: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        """One answer; `stopped` is asked again and again whether to end it.

        `completion_tokens` includes the stop token; `finish_reason` is `length` if there was none.
        """
        room = min(sampling.max_new_tokens, self.positions - len(prompt))
        engine = self._running(len(prompt) + room)
        body = {"prompt": prompt, "n_predict": room, "cache_prompt": self._conversation, **self._settings(sampling)}
        started = time.perf_counter()
        text, tokens = "", 0
        for _ in range(3):
            passed = len(text)
            again = ""
            try:
                for part in self._parts(engine, body, stopped):
                    again += part.get("content", "")
                    if len(again) > passed:
                        on_text(again[passed:])
                        passed = len(again)
                        text = again
                    if part.get("stop"):
                        return {
                            "text": again,
                            "finish_reason": "length" if part["stop_type"] == "limit" else "stop",
                            "prompt_tokens": len(prompt),
                            "completion_tokens": part["tokens_predicted"],
                            "seconds": round(time.perf_counter() - started, 3),
                        }
                    tokens = part.get("tokens_predicted", 0)
            except ServerEndedError:
                engine.revive()  # the same seed gives the same answer, so it goes on where it was
                continue
            return {
                "text": text,
                "finish_reason": "stopped",
                "prompt_tokens": len(prompt),
                "completion_tokens": tokens,
                "seconds": round(time.perf_counter() - started, 3),
            }
        raise InputError("llama.cpp does not answer this prompt")

    @staticmethod
    def _parts(engine: Engine, body: Mapping[str, Any], stopped: Callable[[], bool] | None) -> Iterator[dict[str, Any]]:
        """llama.cpp's parts of an answer. They end early when `stopped` says so, even while it reads the prompt."""
        if stopped is None:
            yield from engine.stream("/completion", body)
            return
        parts: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()

        def read() -> None:
            try:
                for part in engine.stream("/completion", body, stop):
                    parts.put(part)
                parts.put(None)
            except BaseException as cause:
                parts.put(cause)

        threading.Thread(target=read, daemon=True).start()
        try:
            while True:
                try:
                    part = parts.get(timeout=WATCH_SECONDS)
                except queue.Empty:
                    if stopped():
                        return
                    continue
                if part is None:
                    return
                if isinstance(part, BaseException):
                    raise part
                yield part
                if stopped():
                    return
        finally:
            stop.set()

    def _settings(self, sampling: Sampling) -> dict[str, Any]:
        """llama.cpp's names of the sampling, which it does in transformers' order.

        What is neither given nor recommended by the file is off, as in transformers: without a temperature the likeliest token is taken.
        """
        own = self._file.recommended
        given = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
        temperature = sampling.temperature
        if temperature is None:
            temperature = own("temp") if own("temp") is not None else 1.0 if any(value is not None for value in given) else 0.0

        def chosen(value: float | None, name: str, off: float) -> float:
            return value if value is not None else own(name) if own(name) is not None else off

        return {
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "temperature": temperature,
            "top_p": chosen(sampling.top_p, "top_p", 1.0),
            "top_k": chosen(sampling.top_k, "top_k", 0),
            "min_p": chosen(sampling.min_p, "min_p", 0.0),
            "repeat_penalty": chosen(sampling.repetition_penalty, "penalty_repeat", 1.0),
            "repeat_last_n": self.positions,  # the whole prompt and answer, as transformers penalizes
            "stop": list(sampling.stop),
            "seed": sampling.seed,
        }


def paired(adapters: Sequence[str] | None, scales: Sequence[float] | None) -> list[tuple[str, float]]:
    """Adapters with their scales. There are as many of these, or none (src/params/conflicts.rs)."""
    adapters = list(adapters or [])
    return list(zip(adapters, scales or [1.0] * len(adapters), strict=True))
