"""The Modelfile with which Ollama imports a GGUF file: `ollama create my-model -f Modelfile`.

Its template is the Go equivalent of the model's chat template in Jinja: ChatML, the default system prompt, and the
beginning of an answer. Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrust_nn.models.generation import END_TOKENS, usable_settings

logger = logging.getLogger(__name__)

# Every message as ChatML, then the beginning of an answer if the last message is not an assistant's. Go removes the white
# space before `{{-` and after `-}}`; every other newline here is a newline of the prompt.
_TEMPLATE = """\
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}ANSWER{{ end }}
{{- end }}"""

# Ollama's parameter names by those of generation_config.json, with transformers' defaults. All are stated, because Ollama's own defaults
# differ (temperature 0.8, top_k 40, top_p 0.9, repeat_penalty 1.1).
_PARAMETERS: dict[str, tuple[str, float]] = {
    "temperature": ("temperature", 1.0),
    "top_p": ("top_p", 1.0),
    "top_k": ("top_k", 50),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repeat_penalty", 1.0),
}
# Without a value Ollama cuts conversations at 4096 tokens or fewer. It reserves memory for all of them.
_MAX_CONTEXT = 32768


def render_modelfile(
    gguf: Path, tokenizer: Any, generation: Mapping[str, Any], *, end: str | None = None, positions: int | None = None
) -> str:
    """The text of a Modelfile for the GGUF file in the same folder.

    generation: the model's generation_config.json; {} if it has none. end: the token that closes a turn. positions: the most
    tokens that the model can take. If the model's chat template is not ChatML, the Modelfile has no template, and Ollama
    uses the one in the GGUF file if it knows it.
    """
    lines = [f"FROM ./{gguf.name}"]
    if (chat := _chatml(tokenizer)) is not None:
        system, answer = chat
        lines.append(f'TEMPLATE """{_TEMPLATE.replace("ANSWER", answer)}"""')
        if system:
            lines.append(f'SYSTEM """{system}"""')
    known = tokenizer.backend_tokenizer.token_to_id
    stops = dict.fromkeys(token for token in (end, *END_TOKENS) if token and known(token) is not None)
    usable, _ = usable_settings(dict(generation))
    strings = usable.get("stop_strings", [])
    stops |= dict.fromkeys([strings] if isinstance(strings, str) else strings)
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    given = {ours: usable.get(theirs, default) for theirs, (ours, default) in _PARAMETERS.items()}
    if not usable.get("do_sample"):
        given |= {"temperature": 0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # greedy
    if positions is not None:
        given["num_ctx"] = min(positions, _MAX_CONTEXT)
    lines += [f"PARAMETER {name} {value}" for name, value in given.items()]
    return "\n".join(lines) + "\n"


def _chatml(tokenizer: Any) -> tuple[str, str] | None:
    """The default system prompt and the beginning of an answer in the model's template; None if it is not ChatML."""
    if tokenizer.chat_template is None:
        logger.info("the model has no chat template, so its Modelfile has none either")
        return None
    question = "Question 1?"
    messages = [{"role": "user", "content": question}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as cause:
        logger.warning("the chat template fails on a simple question (%s); the Modelfile is written without a template", cause)
        return None
    before, turn, answer = rendered.partition(f"<|im_start|>user\n{question}<|im_end|>\n")
    system = before.removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>\n")
    is_chatml = turn and answer.startswith("<|im_start|>assistant\n")
    if not is_chatml or (before and before != f"<|im_start|>system\n{system}<|im_end|>\n") or '"""' in rendered:
        logger.warning("the chat template is not ChatML; the Modelfile is written without a template, and Ollama chooses one")
        return None
    return system, answer
