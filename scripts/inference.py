"""Inference: the model answers prompts.

Input: a GGUF file with adapters in GGUF, which llama.cpp runs, or a model folder, an adapter or a quantized folder, which
transformers runs; and prompts. Output: `answers.jsonl`, one line per prompt, written as soon as the prompt and those before it are
answered, so that an interrupted step keeps its answers.
"""

import time

from pyrust_nn.answering import answering_model
from pyrust_nn.chat.prompts import read_prompts
from pyrust_nn.chat.sampling import Sampling
from pyrust_nn.chat.streaming import AnswersInOrder
from pyrust_nn.files import open_json_lines


def run(params, session):
    """Answer every prompt; the result is the list of answers."""
    # Invalid input is refused before any weight is loaded.
    prompts, expected = read_prompts(params.prompt, params.prompts_file)
    with answering_model(params, len(prompts)) as model:
        encoded = model.encode(prompts, params.template_kwargs)
        answers = []
        session.progress(0, len(prompts))
        shown = AnswersInOrder(session.stream, [prompt["messages"][-1]["content"] for prompt in prompts])
        started = time.perf_counter()
        with open_json_lines(session.step_folder / "answers.jsonl") as append:
            for prompt, answer in zip(prompts, model.answers(encoded, Sampling.of(params), shown), strict=True):
                answers.append({"messages": prompt["messages"], **answer})
                append(answers[-1])
                session.progress(len(answers), len(prompts))
        seconds = time.perf_counter() - started
        resolved = model.resolved()

    pairs = [(answer["text"], wanted) for answer, wanted in zip(answers, expected, strict=True) if wanted is not None]
    compared = {"expected_answers": len(pairs), "matching_answers": sum(a.strip() == b.strip() for a, b in pairs)} if pairs else {}
    tokens = sum(answer["completion_tokens"] for answer in answers)
    return {
        "outputs": {"answers": "answers.jsonl"},
        "metrics": {
            "prompts": len(answers),
            **compared,
            "prompt_tokens": sum(answer["prompt_tokens"] for answer in answers),
            "completion_tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 2),
        },
        "params": resolved,
        "result": answers,
    }
