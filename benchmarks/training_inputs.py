"""What every side of the training benchmark starts from: a model, an adapter, conversations, and these as rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrust_nn.types import PreparedDataset

TOKENIZER = Path(__file__).resolve().parents[2] / "shared" / "qwen2-tokenizer"
BATCH, MAX_LENGTH, SEED = 4, 512, 11
WORDS = 40, 460  # of a conversation: the fewest, the most
# 103 M parameters.
SIZES = {
    "vocab_size": 151_936,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
RATES = {"lora": 1e-3, "full": 1e-4}
TEXT = (
    "the a of river stone winter market clock garden letter engine window harbour paper silver morning road answer "
    "question teacher number simple quick heavy quiet bright remembers carries finds builds opens counts because "
    "although between under after before with without through every seldom often perhaps never"
)


def make(
    folder: Path,
    rows: int,
    sizes: dict[str, Any] = SIZES,
    tokenizer_folder: Path = TOKENIZER,
    dtype: str = "float32",
    device: str = "cpu",
    words: tuple[int, int] = WORDS,
) -> None:
    """The model of noise, the adapter that all sides start from, and the conversations."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(max_position_embeddings=8192, dtype=dtype, **sizes)).to(getattr(torch, dtype))
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.save_pretrained(folder / "model")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets)
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "model")
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)

    draw, known = random.Random(SEED), TEXT.split()

    def text(length: int) -> str:
        return " ".join(draw.choice(known) for _ in range(length))

    conversations = []
    for _ in range(rows):
        length = round(words[0] * (words[1] / words[0]) ** draw.random())  # short ones are more frequent than long ones
        question = round(length * draw.uniform(0.2, 0.5))
        messages = [{"role": "user", "content": text(question)}, {"role": "assistant", "content": text(length - question)}]
        conversations.append({"messages": messages})
    (folder / "data.json").write_text(json.dumps(conversations), encoding="utf-8")


def encoded(folder: Path) -> tuple[list[dict[str, list[int]]], PreparedDataset]:
    """The rows as plain lists, in the order of the data set, and their counts."""
    import pyrust_nn
    from pyrust_nn.training.rows import PreparedRows

    prepared = pyrust_nn.prepare_dataset(folder / "model", dataset_path=folder / "data.json", max_length=MAX_LENGTH)
    return [{"input_ids": s.input_ids.tolist(), "labels": s.labels.tolist()} for s in PreparedRows(prepared["path"])], prepared


def in_order(rows: list[Any]) -> list[Any]:
    """Rows as our first epoch has them."""
    from pyrust_nn.training.order import epoch_order

    return [rows[index] for index in epoch_order(len(rows), SEED, 0)]
