"""A stack of adapters as one adapter that computes the same.

What the adapters of a module add, Σ sᵢ Bᵢ Aᵢ, is one product: s [f₁ B₁ … fₙ Bₙ] [A₁; …; Aₙ] with fᵢ = sᵢ / s. The rank is
the sum of their ranks, and s = alpha / rank with one alpha for all modules, as GGUF adapters need it too. Where a module
has another rank than most, `rank_pattern` says so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pyrust_nn import ModelError
from pyrust_nn.pairs import PAIR, module_alpha
from pyrust_nn.sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json


def flattened(folders: list[Path]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The adapter_config.json and the float32 tensors of the one adapter; of `folders` the newest is the last.

    Alpha is chosen so that the newest adapter's scale stays, as far as whole numbers allow; dropout is the newest's.
    Raises ModelError for a tensor that is no part of a low-rank pair.
    """
    settings = [read_json(folder / ADAPTER_CONFIG) for folder in folders]
    pairs = [_pairs(folder) for folder in folders]
    newest = settings[-1]
    modules = sorted(set().union(*pairs))
    ranks = {module: sum(one[module][0][1].shape[0] for one in pairs if module in one) for module in modules}
    counts = Counter(ranks.values())
    rank = max(counts, key=lambda rank: (counts[rank], rank))
    alpha = max(1, round(module_alpha(newest | {"alpha_pattern": None}, "", newest["r"]) / newest["r"] * rank))

    tensors = {}
    for module in modules:
        having = [(one, own[module]) for one, own in zip(settings, pairs, strict=True) if module in own]
        (name_a, _), (name_b, _) = having[0][1]
        tensors[name_a] = torch.cat([a.float() for _, ((_, a), _) in having], dim=0)
        # In float64, so that each number is rounded once.
        scaled = [b.double() * _factor(one, module, b.shape[1], alpha / ranks[module]) for one, (_, (_, b)) in having]
        tensors[name_b] = torch.cat(scaled, dim=1).float()

    config = newest | {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,  # the weights are here; how the newest's began is no matter any more
        "target_modules": _targets(settings, modules),
        **dict.fromkeys(_SELECTING),
    }
    return config, tensors


def _factor(settings: dict[str, Any], module: str, rank: int, scale: float) -> float:
    """What a module's B is multiplied by so that its product, counted `scale` times, is what it was."""
    return module_alpha(settings, module, rank) / rank / scale


# What chooses among the modules that `target_modules` names.
_SELECTING = ("layers_to_transform", "layers_pattern", "exclude_modules")


def _targets(settings: list[dict[str, Any]], modules: list[str]) -> list[str]:
    """The names that the adapters were made with where these are plain, else every module by its full name."""
    plain = all(isinstance(one["target_modules"], list) and not any(one.get(name) for name in _SELECTING) for one in settings)
    return sorted(set().union(*(one["target_modules"] for one in settings))) if plain else modules


def _pattern(ranks: dict[str, int], usual: int) -> dict[str, int]:
    """The ranks that differ from the usual one: by the last part of the names where all modules of that name agree."""
    found: dict[str, set[int]] = {}
    for module, rank in ranks.items():
        found.setdefault(module.rpartition(".")[2], set()).add(rank)
    agreeing = {name for name, own in found.items() if len(own) == 1}
    pattern = {}
    for module, rank in ranks.items():
        name = module.rpartition(".")[2]
        if rank != usual:
            pattern[name if name in agreeing else module] = rank
    return pattern


_Tensor = tuple[str, torch.Tensor]


def _pairs(folder: Path) -> dict[str, tuple[_Tensor, _Tensor]]:
    """A and B of every adapted module, each with its name in the file."""
    halves: dict[str, dict[str, _Tensor]] = {}
    for name, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        match = PAIR.fullmatch(name)
        if match is None:
            raise ModelError(f"adapter {folder} cannot be flattened: its tensor {name} is no part of a low-rank pair")
        halves.setdefault(match[1], {})[match[2]] = name, tensor
    if broken := next((module for module, half in halves.items() if len(half) != 2), None):
        raise ModelError(f"adapter {folder} has only half of the pair of {broken}; copy it again or train it again")
    return {module: (half["A"], half["B"]) for module, half in halves.items()}
