"""One training by TRL's SFTTrainer, at one of the settings among which the fastest is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training_inputs import BATCH, MAX_LENGTH, RATES, SEED, encoded, in_order

# What each changes in SFTConfig; the one that is the fastest on a CPU is named apart (results/training_settings.json). All
# of them have: no checkpointing of activations (TRL's default is to do it), no reports, loss_type nll (TRL's own, which
# makes no whole matrix of logits; chunked_nll is its old name).
BATCHES, FASTEST = "batches of 4", "one row at a time"
SETTINGS: dict[str, dict[str, Any]] = {
    BATCHES: {},
    FASTEST: {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BATCH},
    "padding free": {"padding_free": True, "max_length": None},
    "unfused AdamW": {"optim": "adamw_torch"},
    "a worker loads": {"dataloader_num_workers": 1},
    "liger": {"use_liger_kernel": True},
}


def run(task: str, folder: Path, setting: str = BATCHES, device: str = "cpu") -> dict[str, Any]:
    """Train `task` (lora or full) on the inputs in `folder`; on CUDA in bf16, full fine-tuning with weights in fp32 as ours has them."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from pyrust_nn.training.callbacks import ETACallback

    rows, prepared = encoded(folder)
    cpu = device == "cpu"
    dtype = torch.bfloat16 if task == "lora" and not cpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    if task == "lora":
        model = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)

    class Ordered(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    common: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "max_length": MAX_LENGTH,
        "learning_rate": RATES[task],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": not cpu,
        "use_cpu": cpu,
        "activation_checkpointing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }
    clock = ETACallback()
    trainer = Ordered(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        train_dataset=Dataset.from_list(in_order(rows)),
        callbacks=[clock],
        args=SFTConfig(**common | SETTINGS[setting]),
    )
    trainer.train()
    return {
        "target_tokens_per_second": prepared["target_tokens"] / clock.training_seconds,
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
    }
