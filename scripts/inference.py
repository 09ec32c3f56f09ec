"""Inference: the model answers prompts.

Input: a GGUF file with adapters in GGUF, which llama.cpp runs, or a model folder, an adapter or a quantized folder, which
transformers runs; and prompts. Output: `answers.jsonl`, one line per prompt, written as soon as the prompt and those before it are
answered, so that an interrupted step keeps its answers.
"""

import time

from pyrust_nn import UsageError
from pyrust_nn.chat.prompts import read_prompts
from pyrust_nn.chat.sampling import Sampling
from pyrust_nn.chat.streaming import AnswersInOrder
from pyrust_nn.files import open_json_lines

PARALLEL = 8
"""Prompts that llama.cpp answers at once if `parallel` is unset."""


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


def answering_model(params, prompts):
    """What answers this many prompts: llama.cpp or transformers, which is imported for folders only, because that takes seconds."""
    if params.model.endswith(".gguf"):
        refuse(params, "a folder, and the model is a GGUF file", "base_model", dtype="auto")
        from pyrust_nn.llama.model import LlamaModel, paired

        return LlamaModel(
            params.model,
            paired(params.adapter, params.adapter_scale),
            device=params.device,
            parallel=min(params.parallel or PARALLEL, prompts),
            answer_tokens=params.max_new_tokens,
        )
    refuse(params, "a GGUF file, and the model is a folder", "adapter", "adapter_scale", "parallel")
    from pyrust_nn.chat.folder_model import FolderModel

    return FolderModel(params.model, params.base_model, params.device, params.dtype)


def refuse(params, needs, *unset, **defaults):
    """Raise UsageError if one of these parameters has another value than its default."""
    for name, default in {**dict.fromkeys(unset), **defaults}.items():
        if getattr(params, name) != default:
            raise UsageError(f"{name} is for {needs}; leave it out")
