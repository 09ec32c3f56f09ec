"""Fine-tuning: the training loop and its parts.

`load_data`, `train` and `TrainingData` can be imported from here. They are loaded on first use: torch and transformers
take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrust_nn.training.loop import train
    from pyrust_nn.training.setup import TrainingData, load_data

__all__ = ["TrainingData", "load_data", "train"]


def __getattr__(name: str) -> Any:
    """Import what `__all__` names from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{'loop' if name == 'train' else 'setup'}"), name)
