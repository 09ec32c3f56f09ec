"""The states of the random generators: each rank has its own in a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from pyrust_nn._runtime.ranks import Ranks


def random_file(rank: int) -> str:
    """The file with the states of a rank's random generators."""
    return f"rng_state_{rank}.pth" if rank else "rng_state.pth"


def get_random_states() -> dict[str, Any]:
    """The states of this process's random generators."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def load_random_states(folder: Path, ranks: Ranks, seed: int) -> None:
    """Restore the states of this rank's random generators that `save_states` saved, or seed them if there were fewer ranks."""
    if not (folder / random_file(ranks.rank)).is_file():
        step = int(folder.name.rpartition("-")[2])
        set_seed((ranks.seed(seed) + 0x85EBCA6B * step) % 2**32)  # not the numbers that this rank would begin with
        return
    # What NumPy's state consists of. (`_reconstruct` has no public name.)
    reconstruct = np.empty(0).__reduce__()[0]
    with torch.serialization.safe_globals([reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]):
        states = torch.load(folder / random_file(ranks.rank), weights_only=True)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
