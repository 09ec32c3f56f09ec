"""From a JSON file of conversations to a fine-tuned Qwen model, its quantized and GGUF forms, and their answers.

Every task is a function of this module: `finetune_lora("s1", "Qwen/Qwen1.5-0.5B-Chat", dataset_path="data.json")` runs one step
in the session `runs/s1` and returns its summary.
"""

from pyrust_nn._core import (
    BusyError,
    InputError,
    InternalError,
    ModelError,
    PyrustNNError,
    ScriptError,
    SetupError,
    StorageError,
    UsageError,
    __version__,
    convert_lora_to_gguf,
    convert_model_to_gguf,
    finetune_full,
    finetune_lora,
    get_status,
    inference,
    list_sessions,
    main,
    merge,
    prepare_dataset,
    quantize_model,
    run_pipeline,
    run_script,
    set_console,
)
from pyrust_nn.types import Message, PreparedDataset, StepError, Summary

__all__ = [
    "BusyError",
    "InputError",
    "InternalError",
    "Message",
    "ModelError",
    "PreparedDataset",
    "PyrustNNError",
    "ScriptError",
    "SetupError",
    "StepError",
    "StorageError",
    "Summary",
    "UsageError",
    "__version__",
    "convert_lora_to_gguf",
    "convert_model_to_gguf",
    "finetune_full",
    "finetune_lora",
    "get_status",
    "inference",
    "list_sessions",
    "main",
    "merge",
    "prepare_dataset",
    "quantize_model",
    "run_pipeline",
    "run_script",
    "set_console",
]
