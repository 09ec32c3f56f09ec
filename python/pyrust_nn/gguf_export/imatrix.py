"""Importance matrices: how large the inputs of each matrix of a model are, column by column, in the form of llama-imatrix.

For each matrix that a GGUF file stores, `NAME.in_sum2` [matrices, columns] is the sum of the squared inputs of each column, and
`NAME.counts` [matrices, 1] the number of inputs. A matrix of experts has a row for each expert, of the tokens that came to it.
Source: `IMatrixCollector` in tools/imatrix/imatrix.cpp of llama.cpp. Like it, this leaves out the output matrix.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import torch

from pyrust_nn import InputError, ModelError
from pyrust_nn.files import new_cache_file
from pyrust_nn.gguf_export.layout import TensorLayout, TensorMapping
from pyrust_nn.models.adapter_folder import is_adapter
from pyrust_nn.models.loading import load_model
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.model_folder import first_line

BATCH_TOKENS = 4096
"""Of a batch with its padding."""

logger = logging.getLogger(__name__)


class Rows(Protocol):
    """Prepared rows."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, row: int) -> Any:
        """A row with `input_ids`."""

    def lengths(self) -> np.ndarray:
        """The number of tokens of each row."""


def compute_imatrix(
    model: Any, config: Mapping[str, Any], rows: Rows, limit: int, target: Path, datasets: Any, session: Any
) -> dict[str, int]:
    """Run a model over at most `limit` tokens of the rows and write the importance matrix to `target`. Returns the step's metrics.

    `model` is a causal language model with plain weights, `config` its text model's configuration, `datasets` the entry or entries of the
    data set. Raises InputError without rows, ModelError for a model that GGUF files cannot hold.
    """
    if not len(rows):
        raise InputError("there is no row to compute an importance matrix on; give another data set")
    chosen, tokens = choose_rows(rows.lengths(), limit)
    if len(chosen) < len(rows):
        logger.info("%d of %d rows are used: %d tokens (imatrix_tokens)", len(chosen), len(rows), tokens)

    meter, done = InputMeter(model, TensorLayout(config)), 0
    for batch in batches([rows[at].input_ids for at in chosen]):
        session.progress(done, tokens, "tokens of the importance matrix")
        meter.add(batch)
        done += sum(map(len, batch))
    session.progress(tokens, tokens, "tokens of the importance matrix")

    unseen = {name: int((of.counts == 0).sum()) for name, of in meter.sums.items()}
    worst = max(unseen, key=lambda name: unseen[name])
    if unseen[worst]:
        more = "all their columns count alike; use more conversations"
        logger.warning("no token came to some experts, for example %d of %s: %s", unseen[worst], worst, more)
    names = [Path(entry.split("::")[0]).name for entry in ([datasets] if isinstance(datasets, str) else datasets)]
    write_imatrix(target, meter.sums, names, len(chosen))
    return {"rows": len(chosen), "tokens": tokens, "matrices": len(meter.sums), "unseen_experts": unseen[worst]}


def load_measured(model: str, device: torch.device, base_model: str | None = None) -> Any:
    """The model whose inputs are measured; an adapter is merged. In float32 on a CPU, otherwise in the dtype of its weights."""
    dtype = torch.float32 if device.type == "cpu" else None
    return merged_model(model, device, dtype, base_model) if is_adapter(model) else load_model(model, device=device, dtype=dtype)


def choose_rows(lengths: np.ndarray, limit: int) -> tuple[list[int], int]:
    """Indices of rows with at most `limit` tokens together (at least one row), spread evenly over all; and their tokens."""
    every = max(1, -(-int(lengths.sum()) // limit))
    chosen: list[int] = []
    tokens = 0
    for at in range(0, len(lengths), every):
        if chosen and tokens + int(lengths[at]) > limit:
            break
        chosen.append(at)
        tokens += int(lengths[at])
    return chosen, tokens


def batches(rows: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Rows of similar length together, the longest first."""
    batch: list[np.ndarray] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@dataclass
class InputSums:
    """Of one matrix: sums of its squared inputs, float64 [matrices, columns], and their number, int64 [matrices]."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, matrices: int, columns: int) -> InputSums:
        """Nothing was added yet."""
        return cls(np.zeros((matrices, columns)), np.zeros(matrices, np.int64))

    def add(self, matrix: int, squares: np.ndarray, count: int) -> None:
        """Add the sums of the squares of `count` inputs."""
        self.sums[matrix] += squares
        self.counts[matrix] += count


class InputMeter:
    """Adds up the inputs of a model's matrices while it computes. `sums` are by the name of the GGUF tensor."""

    def __init__(self, model: Any, layout: TensorLayout) -> None:
        """`model` is a causal language model of transformers with plain weights."""
        self.model, self.layout = model, layout
        self.sums: dict[str, InputSums] = {}
        self._kept: torch.Tensor | None = None
        # Of the last input: the query, key and value matrices of an attention have the same one, as have gate and up.
        self._last: tuple[torch.Tensor, np.ndarray, int] | None = None

    @torch.inference_mode()
    def add(self, rows: Sequence[np.ndarray]) -> None:
        """Add the inputs for rows of token ids. They are padded on the right, which changes nothing in a causal model, and not counted."""
        length = max(map(len, rows))
        ids = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        device = self.model.device
        self._kept = torch.from_numpy(mask.astype(bool).ravel()).to(device)
        with self._hooks():
            # Without the output matrix, whose logits nobody needs.
            self.model.base_model(
                input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(mask).to(device), use_cache=False
            )
        self._last = self._kept = None

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        head = self.model.get_output_embeddings()
        handles = []
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                handles.append(module.register_forward_pre_hook(self._linear_hook(name, module)))
            elif getattr(module, "gate_up_proj", None) is not None and getattr(module.gate_up_proj, "ndim", 0) == 3:
                handles.append(module.register_forward_pre_hook(self._experts_hook(name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _linear_hook(self, name: str, module: torch.nn.Linear) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        mappings = self._mappings(f"{name}.weight", tuple(module.weight.shape))

        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            squares, count = self._squares(inputs[0])
            for mapping in mappings:
                self._of(mapping).add(0, _reordered(squares, mapping), count)

        return hook

    def _experts_hook(self, name: str) -> Callable[[Any, tuple[torch.Tensor, ...], dict[str, Any]], None]:
        """The experts are one module; what comes to their last matrices is computed here again."""

        def hook(module: Any, inputs: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
            hidden, chosen = (*inputs, *named.values())[:2]
            hidden, chosen = hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1])
            first = [self._of(one) for one in self._mappings(f"{name}.gate_up_proj", tuple(module.gate_up_proj.shape))]
            last = [self._of(one) for one in self._mappings(f"{name}.down_proj", tuple(module.down_proj.shape))]
            kept = self._kept if self._kept is not None else torch.ones(len(hidden), dtype=torch.bool)
            for expert in range(module.gate_up_proj.shape[0]):
                tokens = (chosen == expert).any(-1) & kept
                if not (count := int(tokens.sum())):
                    continue
                inner = hidden[tokens]
                gate, up = torch.nn.functional.linear(inner, module.gate_up_proj[expert]).chunk(2, dim=-1)
                for sums, values in ((first, inner), (last, module.act_fn(gate) * up)):
                    squares = values.float().square().sum(0).cpu().numpy()
                    for one in sums:
                        one.add(expert, squares, count)

        return hook

    def _squares(self, inputs: torch.Tensor) -> tuple[np.ndarray, int]:
        if self._last is None or self._last[0] is not inputs:
            values = inputs.reshape(-1, inputs.shape[-1])
            values = values if self._kept is None else values[self._kept]
            self._last = inputs, values.float().square().sum(0).cpu().numpy(), len(values)
        return self._last[1], self._last[2]

    def _mappings(self, name: str, shape: tuple[int, ...]) -> list[TensorMapping]:
        stored = self.layout.text_model_name(name)
        return [] if stored is None else self.layout.mappings(stored, shape)

    def _of(self, mapping: TensorMapping) -> InputSums:
        matrices = mapping.shape[0] if len(mapping.shape) == 3 else 1
        return self.sums.setdefault(mapping.name, InputSums.empty(matrices, mapping.shape[-1]))


def _reordered(squares: np.ndarray, mapping: TensorMapping) -> np.ndarray:
    """Columns in the order of the GGUF tensor."""
    if mapping.columns is None:
        return squares
    return np.concatenate([squares[first : first + count] for first, count in mapping.columns])


def write_imatrix(target: Path, sums: dict[str, InputSums], datasets: Sequence[str], chunks: int) -> None:
    """Write a file as llama-imatrix does, in the order of names. Raises ModelError for inputs that are not finite.

    chunks: the number of rows, which need not be of one length here; their mean is written as the length of a chunk.
    """
    for name, of in sums.items():
        if not np.isfinite(of.sums).all():
            raise ModelError(
                f"the model computes numbers that are not finite, at the inputs of {name}; its weights or the adapter's are damaged"
            )
    tokens = max((int(of.counts.sum()) for of in sums.values() if len(of.counts) == 1), default=0)
    with new_cache_file(target) as partial:
        writer = gguf.GGUFWriter(partial, "imatrix")
        try:
            writer.kv_data[0].pop(gguf.Keys.General.ARCHITECTURE)  # llama-imatrix writes none
            writer.add_type(gguf.GGUFType.IMATRIX)
            writer.add_array(gguf.Keys.IMatrix.DATASETS, list(datasets))
            writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, chunks)
            writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, max(1, round(tokens / max(1, chunks))))
            for name, of in sorted(sums.items()):
                squeezed = of.sums.astype(np.float32)
                writer.add_tensor(f"{name}.in_sum2", squeezed if len(squeezed) > 1 else squeezed[0])
                counts = of.counts.astype(np.float32)
                writer.add_tensor(f"{name}.counts", counts[:, None] if len(counts) > 1 else counts)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        except (ValueError, OverflowError) as cause:
            raise ModelError(f"{target} cannot be written: {first_line(cause)}; see the log") from cause
        finally:
            writer.close()
