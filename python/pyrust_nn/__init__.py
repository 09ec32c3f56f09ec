"""From a JSON file of conversations to a fine-tuned Qwen model, its quantized and GGUF forms, and their answers.

Every task is a function of this module: `finetune_lora("s1", "Qwen/Qwen1.5-0.5B-Chat", dataset_path="data.json")` runs one step
in the session `runs/s1` and returns its summary.
"""

from pyrust_nn import _core
from pyrust_nn._core import *  # noqa: F403
from pyrust_nn.types import CheckReport, Message, PreparedDataset, StepError, Summary

# A task's name follows from its definition in the native module.
__all__ = ["CheckReport", "Message", "PreparedDataset", "StepError", "Summary"]
__all__ += _core.__all__
