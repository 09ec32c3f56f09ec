"""The Modelfile with which Ollama imports a GGUF file: `ollama create my-model -f Modelfile`.

Its template is the Go equivalent of the model's chat template in Jinja: ChatML, the default system prompt, and the
beginning of an answer. Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrust_nn.models.saving import END_TOKENS

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

# Ollama's parameter names by those of generation_config.json.
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


def render_modelfile(gguf: Path, tokenizer: Any, generation: Mapping[str, Any]) -> str:
    """The text of a Modelfile for the GGUF file in the same folder.

    generation: the model's generation_config.json; {} if it has none. If the model's chat template is not ChatML, the
    Modelfile has no template, and Ollama uses the one in the GGUF file if it knows it.
    """
    lines = [f"FROM ./{gguf.name}"]
    if (chat := _chatml(tokenizer)) is not None:
        system, answer = chat
        lines.append(f'TEMPLATE """{_TEMPLATE.replace("ANSWER", answer)}"""')
        if system:
            lines.append(f'SYSTEM """{system}"""')
    known = tokenizer.backend_tokenizer.token_to_id
    lines += [f'PARAMETER stop "{token}"' for token in END_TOKENS if known(token) is not None]
    if generation.get("do_sample"):
        given = {ours: generation[theirs] for theirs, ours in _PARAMETERS.items() if generation.get(theirs) is not None}
    else:
        given = {"temperature": 0}
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
