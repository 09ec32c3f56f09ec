"""Inference: the model answers prompts one by one.

Input: a model folder, an adapter or a quantized folder, and prompts. Output: `answers.jsonl`, one line per prompt, written
as soon as the prompt is answered, so that an interrupted step keeps its answers.
"""

import copy
import time

import torch
from transformers import TextStreamer

from pyrust_nn import InputError
from pyrust_nn.chat.prompts import read_prompts
from pyrust_nn.chat.renderer import ChatRenderer
from pyrust_nn.files import open_json_lines
from pyrust_nn.models.adapter_folder import check_base_model
from pyrust_nn.models.devices import dtype_name, pick_device, pick_dtype
from pyrust_nn.models.generation import end_of_turn, set_stop_tokens
from pyrust_nn.models.loading import load_model, position_limit
from pyrust_nn.models.tokenizers import shared_tokenizer, tokenizer_folder


def run(params, session):
    """Answer every prompt; the result is the list of answers."""
    # Invalid input is refused before any weight is loaded.
    prompts, expected = read_prompts(params.prompt, params.prompts_file)
    device = pick_device(params.device)
    check_base_model(params.model, params.base_model)
    tokenizer = shared_tokenizer(params.model, params.base_model)
    encoded = encode(prompts, tokenizer, params.template_kwargs)
    end = end_of_turn(tokenizer_folder(params.model, params.base_model))

    model = load_model(params.model, device=device, dtype=pick_dtype(params.dtype, device), base_model=params.base_model)
    limit = position_limit(model.config)
    for index, ids in enumerate(encoded):
        if limit is not None and ids.shape[1] >= limit:
            raise InputError(
                f"prompt {index} has {ids.shape[1]} tokens, and the model has {limit} positions, so no room is left "
                "for an answer; shorten it"
            )

    answers = []
    session.progress(0, len(prompts))
    with open_json_lines(session.step_folder / "answers.jsonl") as append:
        for index, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True)):
            messages = prompt["messages"]
            if len(prompts) > 1:
                session.stream(f"> {messages[-1]['content']}\n")
            room = params.max_new_tokens if limit is None else min(params.max_new_tokens, limit - ids.shape[1])
            generation = generation_config(model.generation_config, tokenizer, end, params, room)
            answer = {"messages": messages, **generate_answer(model, tokenizer, ids.to(device), generation, params.seed, session)}
            answers.append(answer)
            append(answer)
            session.stream("\n\n" if len(prompts) > 1 else "\n")
            session.progress(index + 1, len(prompts))

    pairs = [(answer["text"], wanted) for answer, wanted in zip(answers, expected, strict=True) if wanted is not None]
    compared = {"expected_answers": len(pairs), "matching_answers": sum(a.strip() == b.strip() for a, b in pairs)} if pairs else {}
    seconds = sum(answer["seconds"] for answer in answers)
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
        "params": {"device": str(device), "dtype": dtype_name(model.dtype)},
        "result": answers,
    }


def encode(prompts, tokenizer, template_kwargs):
    """Each prompt's token ids, [1, tokens], up to the beginning of the answer. A prompt's own template variables take precedence."""
    renderer = ChatRenderer(tokenizer)
    texts = []
    for index, prompt in enumerate(prompts):
        own = prompt.get("chat_template_kwargs", {})
        messages, options = renderer.arguments({**prompt, "chat_template_kwargs": {**(template_kwargs or {}), **own}})
        texts.append(renderer.render(messages, f"[{index}]", prompt=True, options=options))
    return [tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"] for text in texts]


def generation_config(own, tokenizer, end, params, max_new_tokens):
    """The model's own generation config, changed by the parameters."""
    config = copy.deepcopy(own)
    config.max_length, config.max_new_tokens = None, max_new_tokens
    if params.temperature == 0:
        config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    else:
        given = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        for name, value in given.items():
            if value is not None:
                # A sampling parameter implies sampling.
                config.do_sample = True
                setattr(config, name, value)
    set_stop_tokens(config, tokenizer, end)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config


def generate_answer(model, tokenizer, ids, generation, seed, session):
    """One answer. `completion_tokens` includes the stop token; `finish_reason` is `length` if there was none."""
    torch.manual_seed(seed)  # for each prompt, so that an answer does not depend on earlier prompts
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=generation,
            tokenizer=tokenizer,  # for stop_strings
            # Beams are complete only at the end.
            streamer=TerminalStreamer(tokenizer, session) if generation.num_beams in (None, 1) else None,
        )
    completion = output[0, ids.shape[1] :].tolist()
    text = tokenizer.decode(completion, skip_special_tokens=True)
    strings = generation.stop_strings or ()
    stopped = completion[-1] in generation.eos_token_id or text.endswith((strings,) if isinstance(strings, str) else tuple(strings))
    return {
        "text": text,
        "finish_reason": "stop" if stopped else "length",
        "prompt_tokens": ids.shape[1],
        "completion_tokens": len(completion),
        "seconds": round(time.perf_counter() - started, 3),
    }


class TerminalStreamer(TextStreamer):
    """Writes an answer to the terminal word by word."""

    def __init__(self, tokenizer, session):
        """Skips the prompt."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.session = session

    def on_finalized_text(self, text, stream_end=False):
        """Called with complete words."""
        if text:
            self.session.stream(text)
