"""Converts a stack of adapters to one adapter that computes the same.

The sum that the adapters add to a module, Σ sᵢ Bᵢ Aᵢ, is one product: s [f₁ B₁ … fₙ Bₙ] [A₁; …; Aₙ] with fᵢ = sᵢ / s. Its
rank is the sum of their ranks, and s = alpha / rank with one alpha for all modules, which GGUF adapters need too.
`rank_pattern` lists the modules whose rank differs from the most frequent one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.models.adapters import Adapter
from pyrust_nn.models.lora_pairs import LORA_TENSOR, module_alpha


def flatten_adapters(stack: list[Adapter]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The adapter_config.json and the float32 tensors of the combined adapter. The newest of the stack is the last.

    Alpha keeps the newest adapter's scale, as far as an integer can; dropout is the newest's.
    Raises InputError for a tensor that does not belong to a low-rank pair.
    """
    settings = [adapter.settings for adapter in stack]
    pairs = [_pairs(adapter) for adapter in stack]
    newest = settings[-1]
    modules = sorted(set().union(*pairs))
    ranks = {module: sum(own[module][0][1].shape[0] for own in pairs if module in own) for module in modules}
    counts = Counter(ranks.values())
    rank = max(counts, key=lambda rank: (counts[rank], rank))
    alpha = max(1, round(module_alpha(newest | {"alpha_pattern": None}, "", newest["r"]) / newest["r"] * rank))

    tensors = {}
    for module in modules:
        parts = [(config, own[module]) for config, own in zip(settings, pairs, strict=True) if module in own]
        (name_a, _), (name_b, _) = parts[0][1]
        tensors[name_a] = torch.cat([a.float() for _, ((_, a), _) in parts], dim=0)
        # In float64, so that each number is rounded once.
        scaled = [b.double() * _factor(config, module, b.shape[1], alpha / ranks[module]) for config, (_, (_, b)) in parts]
        tensors[name_b] = torch.cat(scaled, dim=1).float()

    config = newest | {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _rank_pattern(ranks, rank),
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,  # the weights are saved, so how the newest were initialized no longer matters
        "target_modules": _target_modules(settings, modules),
        **dict.fromkeys(_MODULE_FILTERS),
    }
    return config, tensors


def _factor(settings: dict[str, Any], module: str, rank: int, scale: float) -> float:
    """The factor for a module's B that keeps its product when the pair is scaled by `scale`."""
    return module_alpha(settings, module, rank) / rank / scale


# Settings that restrict which of the modules in `target_modules` are adapted.
_MODULE_FILTERS = ("layers_to_transform", "layers_pattern", "exclude_modules")


def _target_modules(settings: list[dict[str, Any]], modules: list[str]) -> list[str]:
    """The adapters' own target names if these are plain lists, else the full name of every module."""
    plain = all(isinstance(config["target_modules"], list) and not any(config.get(name) for name in _MODULE_FILTERS) for config in settings)
    return sorted(set().union(*(config["target_modules"] for config in settings))) if plain else modules


def _rank_pattern(ranks: dict[str, int], usual: int) -> dict[str, int]:
    """The ranks that differ from the usual one.

    Keys are the last part of the module's name if all modules with it have the same rank, else the full name.
    """
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


_NamedTensor = tuple[str, torch.Tensor]


def _pairs(adapter: Adapter) -> dict[str, tuple[_NamedTensor, _NamedTensor]]:
    """A and B of every adapted module, each with its name."""
    halves: dict[str, dict[str, _NamedTensor]] = {}
    for name, tensor in adapter.load_tensors().items():
        match = LORA_TENSOR.fullmatch(name)
        if match is None:
            raise InputError(
                f"adapter {adapter.folder} cannot be flattened: its tensor {name} does not belong to a low-rank pair; "
                "merge it instead (task merge)"
            )
        halves.setdefault(match[1], {})[match[2]] = name, tensor
    return {module: (half["A"], half["B"]) for module, half in halves.items()}
