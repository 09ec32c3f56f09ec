"""Makes the tables of scale.md: `python docs/scale.py BINARY`, or `make scale`.

The first table is what `check` estimates for models that have a shape and no weights. The others are calculated here.
"""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

PAGE = Path(__file__).with_name("scale.md")
GIB = 1 << 30
TOKENS = 4096
"""Of a micro-batch."""
RANK = 16
CARDS = (8, 16, 24, 40, 80, 141)
USABLE = 0.92
"""Of a card's memory: CUDA's own part, and what the allocator cannot use."""


class Shape(NamedTuple):
    """Sizes of a Qwen model, from its config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool = False
    head: int = 128
    biases: bool = True  # of Qwen2's queries, keys and values; Qwen3 has norms instead
    experts: int = 0
    chosen: int = 0  # experts for each token

    def blocks(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a layer, without single experts."""
        queries, keys = self.heads * self.head, self.key_heads * self.head
        found: dict[str, tuple[int, ...]] = {"input_layernorm": (self.hidden,), "post_attention_layernorm": (self.hidden,)}
        for name, size in {"q": queries, "k": keys, "v": keys}.items():
            found[f"self_attn.{name}_proj"] = (size, self.hidden)
            if self.biases:
                found[f"self_attn.{name}_proj.bias"] = (size,)
        found["self_attn.o_proj"] = (self.hidden, queries)
        if not self.biases:
            found |= {"self_attn.q_norm": (self.head,), "self_attn.k_norm": (self.head,)}
        return found | ({"mlp.gate": (self.experts, self.hidden)} if self.experts else self.mlp("mlp."))

    def mlp(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The tensors of one MLP."""
        into = (self.intermediate, self.hidden)
        return {f"{prefix}gate_proj": into, f"{prefix}up_proj": into, f"{prefix}down_proj": into[::-1]}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """All tensors of a dense model by their names."""
        matrix = (self.vocabulary, self.hidden)
        found = {"model.embed_tokens.weight": matrix, "model.norm.weight": (self.hidden,)}
        if not self.tied:
            found["lm_head.weight"] = matrix
        for layer in range(self.layers):
            for name, shape in self.blocks().items():
                found[f"model.layers.{layer}.{name}" + ("" if name.endswith("bias") else ".weight")] = shape
        return found

    def parameters(self, experts: int | None = None) -> int:
        """Of the whole model, or with so many experts in each layer."""
        expert = sum(map(math.prod, self.mlp("").values())) if self.experts else 0
        return sum(map(math.prod, self.tensors().values())) + self.layers * expert * (self.experts if experts is None else experts)

    def adapter(self) -> int:
        """Parameters of a LoRA adapter of the linear layers. (Fused experts and their router are not adapted.)"""
        pairs = [shape for name, shape in self.blocks().items() if len(shape) == 2 and name != "mlp.gate"]
        return self.layers * RANK * sum(map(sum, pairs))

    def config(self) -> dict[str, Any]:
        """The config.json of a dense model."""
        return {
            "model_type": "qwen2",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 32_768,
            "dtype": "bfloat16",
        }


MODELS = {
    "Qwen2.5-0.5B": Shape(24, 896, 4864, 14, 2, 151_936, tied=True, head=64),
    "Qwen2.5-7B": Shape(28, 3584, 18_944, 28, 4, 152_064),
    "Qwen2.5-32B": Shape(64, 5120, 27_648, 40, 8, 152_064),
    "Qwen3-235B-A22B": Shape(94, 4096, 1536, 64, 4, 151_936, biases=False, experts=128, chosen=8),
}
METHODS = {
    "full": ["--task", "finetune_full"],
    "LoRA": ["--task", "finetune_lora", "--lora-rank", str(RANK)],
    "QLoRA": ["--task", "finetune_lora", "--lora-rank", str(RANK), "--load-in-4bit"],
}
# What published runs reach on an H100 (see the page), in floating point operations a second; bytes a second of NVLink within a
# machine of 8 GPUs and of a 400 Gb/s adapter for each GPU between machines, in one direction.
RATE, NVLINK, NETWORK = 430e12, 450e9, 50e9


def write_model(folder: Path, shape: Shape) -> None:
    """A model's folder whose weights are a hole in a file, with the tokenizer of builtin:tiny."""
    from pyrust_nn.models.tiny import tiny_model_folder

    folder.mkdir()
    for file in tiny_model_folder().iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(shape.config()))
    header, end = {}, 0
    for name, sizes in shape.tensors().items():
        bytes_ = 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [end, end + bytes_]}
        end += bytes_
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(struct.pack("<Q", len(text)) + text)
        weights.truncate(8 + len(text) + end)


def estimates(binary: str) -> dict[tuple[str, str], dict[str, int]]:
    """The memory that `check` estimates, by model and method."""
    found = {}
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a number. " * 20}]
    with TemporaryDirectory() as made:
        data = Path(made) / "data.json"
        data.write_text(json.dumps([{"messages": messages}] * 128))
        for model, shape in MODELS.items():
            if shape.experts:
                continue
            folder = Path(made) / model
            write_model(folder, shape)
            for method, words in METHODS.items():
                place = ["--device", "cuda", "--dtype", "bf16", "--max-tokens-per-batch", str(TOKENS), "--batch-size", "128"]
                command = [binary, "check", str(data), "--model", str(folder), *words, *place, "--show", "0", "--json"]
                done = subprocess.run([*command, "--no-setup"], check=True, capture_output=True, text=True)
                found[model, method] = json.loads(done.stdout)["estimate"]["memory"]
    return found


def with_checkpointing(shape: Shape, method: str, memory: dict[str, int]) -> int:
    """The total if each layer keeps its input only, and one layer at a time is computed again."""
    kept = memory["activations"]
    if method == "full":  # autocast's copies of the matrices and the output matrix' gradient are counted with the activations
        matrices = sum(math.prod(sizes) for sizes in shape.tensors().values() if len(sizes) == 2)
        kept -= 2 * matrices + 4 * shape.vocabulary * shape.hidden
    inputs = TOKENS * shape.layers * shape.hidden * (4 if method == "full" else 2)
    return memory["total"] - kept + inputs + kept // shape.layers


def eight_bit(shape: Shape, memory: dict[str, int]) -> int:
    """What moments in 8 bits save: a byte and a scale for each block of 256 instead of 4 bytes, but for the embedding."""
    return round((memory["optimizer"] - 8 * shape.vocabulary * shape.hidden) * (1 - (1 + 4 / 256) / 4))


def card(total: float) -> str:
    """The smallest card that holds so many bytes."""
    return next((f"{size} GB" for size in CARDS if total <= USABLE * size * GIB), "more than one")


def gib(count: float) -> str:
    """Bytes in GiB, with three digits."""
    value = count / GIB
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def one_gpu(binary: str) -> str:
    """The memory of one GPU."""
    lines = [
        "| | weights | gradients | optimizer | activations | logits | total | fits | with `gradient_checkpointing` | fits |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, method), memory in estimates(binary).items():
        shape = MODELS[model]
        less = with_checkpointing(shape, method, memory)
        parts = [gib(memory[part]) for part in ("weights", "gradients", "optimizer", "activations", "logits", "total")]
        lines.append(f"| {model}, {method} | {' | '.join(parts)} | {card(memory['total'])} | {gib(less)} | {card(less)} |")
        if method == "full":
            saved = eight_bit(shape, memory)
            optimizer, total, least = memory["optimizer"] - saved, memory["total"] - saved, less - saved
            parts = [*parts[:2], gib(optimizer), *parts[3:5], gib(total)]
            lines.append(f"| {model}, {method}, `adamw_8bit` | {' | '.join(parts)} | {card(total)} | {gib(least)} | {card(least)} |")
    return "\n".join(lines)


def many_gpus() -> str:
    """Memory and network of several GPUs."""
    lines = [
        "| | GPUs | whole: state | sent a step | tokens for 10% | sharded: state | sent a step | tokens for 10% |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in ("Qwen2.5-7B", "Qwen2.5-32B", "Qwen3-235B-A22B"):
        shape = MODELS[model]
        parameters = shape.parameters()
        for method, trained, operations in (("full", parameters, 6), ("LoRA", shape.adapter(), 4)):
            per_token = operations * shape.parameters(experts=shape.chosen if shape.experts else None) / RATE
            held = 18 * parameters if method == "full" else 2 * parameters + 16 * trained
            for gpus in (8, 64, 1024):
                share, speed = (gpus - 1) / gpus, NVLINK if gpus == 8 else NETWORK
                # A ring sends each byte of a sum twice, of a gathering or scattering once. Weights are gathered in bf16, twice.
                whole = 2 * share * 4 * trained
                sharded = share * (2 * 2 * parameters + 4 * trained)
                gathered = 2 * 2 * parameters / shape.layers  # two layers
                state = (16 * parameters if method == "full" else held) / gpus + gathered
                cells = [gib(held), f"{whole / 1e9:,.2f}", f"{10 * whole / speed / per_token:,.0f}"]
                cells += [gib(state), f"{sharded / 1e9:,.1f}", f"{10 * sharded / speed / per_token:,.0f}"]
                lines.append(f"| {model}, {method} | {gpus:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(binary: str) -> dict[str, str]:
    """The tables by their names on the page."""
    return {"one GPU": one_gpu(binary), "many GPUs": many_gpus()}


def with_tables(page: str, made: dict[str, str]) -> str:
    """The page with these tables in their places."""
    for name, table in made.items():
        page, count = re.subn(rf"(<!-- table: {name} -->\n\n).*?(\n\n<!-- end -->)", rf"\g<1>{table}\g<2>", page, flags=re.DOTALL)
        assert count == 1, name
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(sys.argv[1])), encoding="utf-8")
