"""Inference: the model answers prompts.

Input: a GGUF file with adapters in GGUF, which llama.cpp runs, or a model folder, an adapter or a quantized folder, which
transformers runs; and prompts. Output: `answers.jsonl`, one line for each answer (a prompt has `n`), written as soon as it and those
before it are complete, so that an interrupted step keeps its answers.
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
    with answering_model(params, len(prompts) * params.n) as model:
        # Each prompt stands `n` times, with another seed.
        encoded = [tokens for tokens in model.encode(prompts, params.template_kwargs) for _ in range(params.n)]
        samplings = [Sampling.of(params, index) for _ in prompts for index in range(params.n)]
        asked = [(prompt["messages"], index) for prompt in prompts for index in range(params.n)]
        answers = []
        session.progress(0, len(asked))
        number = (lambda index: f" ({index + 1} of {params.n})") if params.n > 1 else (lambda _: "")
        shown = AnswersInOrder(session.stream, [messages[-1]["content"] + number(index) for messages, index in asked])
        started = time.perf_counter()
        with open_json_lines(session.step_folder / "answers.jsonl") as append:
            for (messages, index), answer in zip(asked, model.answers(encoded, samplings, shown), strict=True):
                answers.append({"messages": messages, **({"index": index} if params.n > 1 else {}), **answer})
                append(answers[-1])
                session.progress(len(answers), len(asked))
        seconds = time.perf_counter() - started
        resolved = model.resolved()

    wanted_answers = [wanted for wanted in expected for _ in range(params.n)]
    pairs = [(answer["text"], wanted) for answer, wanted in zip(answers, wanted_answers, strict=True) if wanted is not None]
    compared = {"expected_answers": len(pairs), "matching_answers": sum(a.strip() == b.strip() for a, b in pairs)} if pairs else {}
    tokens = sum(answer["completion_tokens"] for answer in answers)
    return {
        "outputs": {"answers": "answers.jsonl"},
        "metrics": {
            "prompts": len(prompts),
            **({"answers": len(answers)} if params.n > 1 else {}),
            **compared,
            "prompt_tokens": sum(answer["prompt_tokens"] for answer in answers),
            "completion_tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 2),
        },
        "params": resolved,
        "result": answers,
    }
