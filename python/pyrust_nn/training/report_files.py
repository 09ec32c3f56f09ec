"""What a training keeps for its report: `data_report.json` (the data as the model sees it, and what `check` promised) and
`samples.jsonl` (greedy answers to a few prompts, before and after).

A prompt is a row up to its last answer, so no template is rendered, and the model reads what it reads in training. Nothing here
changes the training: no random number is drawn, and an answer that cannot be made is a warning.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch

from pyrust_nn import PyrustNNError, _core
from pyrust_nn.files import write_json, write_json_lines
from pyrust_nn.models.model_folder import first_line, model_folder
from pyrust_nn.models.verified_classes import is_verified
from pyrust_nn.training.evaluation import set_eval_mode
from pyrust_nn.training.memory import release_memory
from pyrust_nn.training.overview import estimate_inputs
from pyrust_nn.training.rows import IGNORED, PreparedRows, Row
from pyrust_nn.training.session import TrainingSession
from pyrust_nn.training.setup import TrainingData
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)

# An answer has at most so many tokens: enough to see whether it has changed. A prompt may have more.
MAX_NEW_TOKENS = 48
MAX_PROMPT_TOKENS = 1024
# Rows that the report shows with their trained tokens, and tokens of each.
SAMPLE_ROWS = 3
SAMPLE_TOKENS = 600
BINS = 20


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt of the data set: the tokens before its last answer, and the answer."""

    row: int
    prompt: list[int]
    expected: list[int]


class TrainingReportFiles:
    """Writes both files into the step's folder. `folder` has the tokenizer with which the rows were made."""

    def __init__(
        self,
        params: SimpleNamespace,
        data: TrainingData,
        session: TrainingSession,
        folder: Path,
        *,
        end_of_turn: str | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Chooses the prompts: of held-out rows, if there are some."""
        self.params, self.data, self.session, self.folder = params, data, session, folder
        self.end_of_turn, self.device, self.dtype = end_of_turn, device, dtype
        rows = data.evaluation or data.train
        self.prompts = sample_prompts(rows, params.sample_prompts) if len(rows) else []
        self.answers: dict[str, list[tuple[list[int], bool]]] = {}

    def before(self, model: Any) -> None:
        """Call it when the model is ready to be trained."""
        write_json(self.session.step_folder / "data_report.json", self._data_report())
        self._ask(model, "before")

    def after(self, model: Any) -> None:
        """Call it when the trained model is saved."""
        if self.prompts:
            self._ask(model, "after")

    def _data_report(self) -> dict[str, Any]:
        train = self.data.train
        lengths = train.lengths()
        return {
            "counts": self.data.counts,
            **self.data.findings,
            "max_length": self.params.max_length,
            "train_rows": len(train),
            "train_tokens": int(lengths.sum()),
            "lengths": length_report(lengths),
            "samples": [sample_row(self.folder, number, train[number]) for number in range(min(SAMPLE_ROWS, len(train)))],
            "estimate": self._estimate(),
        }

    def _estimate(self) -> dict[str, Any] | None:
        settings, rows = estimate_inputs(self.params, self.data, self.device, self.dtype)
        try:
            found = _core.training_estimate(Path(model_folder(self.params.model)), json.dumps(settings, default=str), json.dumps(rows))
        except PyrustNNError as cause:  # a configuration that only transformers understands
            logger.debug("the training cannot be estimated: %s", cause)
            return None
        return json.loads(found)

    def _ask(self, model: Any, when: Literal["before", "after"]) -> None:
        if not self.prompts:
            return
        started = time.perf_counter()
        try:
            self.answers[when] = greedy_answers(model, [one.prompt for one in self.prompts], self.device, self.dtype)
        except Exception as cause:  # whatever a model's own code raises here must not end its training
            why = (
                "there is not enough memory"
                if isinstance(cause, torch.OutOfMemoryError)
                else f"{type(cause).__name__}: {first_line(cause)}"
            )
            logger.warning("no sample answers %s training: %s; sample_prompts 0 asks for none", when, why)
        finally:
            release_memory()
        write_json_lines(self.session.step_folder / "samples.jsonl", self._lines())
        if when in self.answers:
            seconds = time.perf_counter() - started
            logger.info(
                "%s %s training took %.1f s", counted(len(self.prompts), "sample answer"), when, seconds, extra={"shown": "off_terminal"}
            )

    def _lines(self) -> Iterator[dict[str, Any]]:
        prompts = _core.detokenize(self.folder, [one.prompt for one in self.prompts], False)
        expected = _core.detokenize(self.folder, [one.expected for one in self.prompts], True)
        said = {when: _core.detokenize(self.folder, [tokens for tokens, _ in answers], True) for when, answers in self.answers.items()}
        for place, (one, prompt) in enumerate(zip(self.prompts, prompts, strict=True)):
            line: dict[str, Any] = {
                "row": one.row,
                "held_out": self.data.evaluation is not None,
                "message": last_message(prompt, self.end_of_turn),
                "prompt": prompt,
                "expected": expected[place],
            }
            for when in ("before", "after"):
                line[when] = said[when][place] if when in said else None
                line[f"{when}_complete"] = self.answers[when][place][1] if when in said else None
            yield line


def sample_prompts(rows: PreparedRows, count: int) -> list[SamplePrompt]:
    """At most `count` prompts, spread evenly over the rows. Rows without a prompt, or with a very long one, are left out."""
    found: list[SamplePrompt] = []
    # Each prompt is looked for in its own share of the rows.
    for place in range(min(count, len(rows))):
        begin, end = (len(rows) * part // min(count, len(rows)) for part in (place, place + 1))
        for number in range(begin, min(end, begin + 50)):
            if (prompt := prompt_of(number, rows[number])) is not None:
                found.append(prompt)
                break
    return found


def prompt_of(number: int, row: Row) -> SamplePrompt | None:
    """The prompt of a row: what precedes its last trained part."""
    trained = np.flatnonzero(row.labels != IGNORED)
    if not len(trained):
        return None
    gaps = np.flatnonzero(np.diff(trained) > 1)
    begin = int(trained[gaps[-1] + 1] if len(gaps) else trained[0])
    if not 2 <= begin <= MAX_PROMPT_TOKENS:
        return None
    return SamplePrompt(number, row.input_ids[:begin].tolist(), row.input_ids[begin : int(trained[-1]) + 1].tolist())


def greedy_answers(model: Any, prompts: list[list[int]], device: torch.device, dtype: torch.dtype) -> list[tuple[list[int], bool]]:
    """The tokens that follow each prompt, by the most probable token, and whether the answer came to its end."""
    generation = copy.deepcopy(model.generation_config)
    generation.do_sample, generation.num_beams, generation.max_length, generation.max_new_tokens = False, 1, None, MAX_NEW_TOKENS
    for name in ("temperature", "top_p", "top_k", "min_p"):
        setattr(generation, name, None)
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    ends = [end for end in ends if end is not None]
    if generation.pad_token_id is None:
        generation.pad_token_id = ends[0] if ends else 0
    # Padding before a prompt changes nothing in the models that were compared.
    size = len(prompts) if is_verified(model.config) else 1
    training, use_cache = model.training, model.config.use_cache
    set_eval_mode(model)
    model.config.use_cache = True
    mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    answers = []
    devices = [device] if device.type == "cuda" else []
    try:
        # Not inference_mode: what a layer keeps, such as a table of positions, is used in training too.
        with torch.random.fork_rng(devices), torch.no_grad(), mixed:
            for begin in range(0, len(prompts), size):
                some = prompts[begin : begin + size]
                longest = max(map(len, some))
                ids = torch.tensor([[generation.pad_token_id] * (longest - len(one)) + one for one in some], device=device)
                mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in some], device=device)
                output = model.generate(input_ids=ids, attention_mask=mask, generation_config=generation)
                for new in output[:, longest:].tolist():
                    end = next((place for place, token in enumerate(new) if token in ends), None)
                    answers.append((new if end is None else new[:end], end is not None))
    finally:
        model.train(training)
        model.config.use_cache = use_cache
    return answers


def last_message(prompt: str, end_of_turn: str | None) -> str:
    """The last message in a rendered prompt, as far as it can be told apart: the text of the last closed turn, without its markers."""
    turns = prompt.split(end_of_turn) if end_of_turn else [prompt]
    text = turns[-2] if len(turns) > 1 else turns[-1]
    text = re.sub(r"<\|[^|<>]*\|>", "", text).strip()
    role, _, rest = text.partition("\n")
    return rest.strip() if role.strip() in ("user", "system", "tool", "human") and rest.strip() else text


def length_report(lengths: np.ndarray) -> dict[str, Any]:
    """Quantiles of the rows' lengths in tokens, and how many rows are of which length."""
    if not len(lengths):
        return {"histogram": []}
    counts, edges = np.histogram(lengths, bins=min(BINS, max(1, int(lengths.max() - lengths.min()))))
    bins = [
        {"from": int(np.ceil(low)), "to": int(np.ceil(high)) - 1, "rows": int(count)}
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    bins[-1]["to"] = int(lengths.max())
    quantiles = {name: int(np.quantile(lengths, part, method="higher")) for name, part in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return {**quantiles, "max": int(lengths.max()), "histogram": bins}


def sample_row(folder: Path, number: int, row: Row) -> dict[str, Any]:
    """A row as text: `segments` are `[text, whether it is trained]`. `folder` has the tokenizer."""
    trained = row.labels[:SAMPLE_TOKENS] != IGNORED
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(trained)]
    parts = [(begin, end) for begin, end in pairwise(edges) if end > begin]
    texts = _core.detokenize(folder, [row.input_ids[begin:end].tolist() for begin, end in parts], False)
    segments = [[text, bool(trained[begin])] for text, (begin, _) in zip(texts, parts, strict=True)]
    return {"row": number, "tokens": len(row.input_ids), "trained": row.target_tokens, "shown": len(trained), "segments": segments}
