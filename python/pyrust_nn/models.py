"""Models and tokenizers of the Qwen family (1.5, 2, 2.5, 3, 3.5; dense and with experts), loaded from trusted files.

Everything is loaded from a folder (see `sources`) by the model's own configuration, from safetensors, without remote
code and without the network. What goes wrong with a model is a ModelError that says what to do.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import InputError, ModelError
from pyrust_nn.sources import (
    adapter_base,
    checked_adapter_folder,
    checked_model_folder,
    is_adapter,
    model_folder,
    quantization,
    read_json,
)
from pyrust_nn.stack import add_parents, parent_folders

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "adapter_base",
    "dtype_name",
    "is_adapter",
    "load_model",
    "load_tokenizer",
    "lora_target_modules",
    "merged_model",
    "model_folder",
    "pick_device",
    "pick_dtype",
    "position_limit",
    "read_tokenizer",
    "shared_tokenizer",
    "stored_dtype",
    "tokenizer_files",
    "tokenizer_folder",
]

logger = logging.getLogger(__name__)

# What transformers reads a tokenizer from; and of config.json the model_type, on which its class depends.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
MORE_TEMPLATES = "additional_chat_templates"

# The linear layers of a Qwen block, in the order of the data's way.
STANDARD_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Linear layers that choose experts instead of computing: small changes there move tokens to other experts.
ROUTERS = {"gate", "shared_expert_gate"}


def pick_device(device: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`. Raises InputError for a GPU that is not there."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    picked = torch.device(device)
    if picked.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device {device}: torch sees no GPU here; take auto or cpu, `pyrust-nn doctor` says more")
        if picked.index is not None and picked.index >= count:
            raise InputError(f"device {device}: the GPUs here are cuda:0 to cuda:{count - 1}")
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`bf16`, `fp16`, `fp32`, or `auto`: on CUDA bf16 where the GPU computes in it, else fp16; fp32 on a CPU."""
    import torch

    if dtype != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a number format, as parameters have it: `bf16`, `fp16`, `fp32`."""
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[str(dtype).removeprefix("torch.")]


def tokenizer_folder(model: str) -> Path:
    """Where the tokenizer of a model is, or of an adapter (its own where it has one, else its base's)."""
    folder = model_folder(model)
    if not is_adapter(model):
        return checked_model_folder(model)
    return folder if (folder / "tokenizer_config.json").is_file() else tokenizer_folder(adapter_base(model))


def tokenizer_files(folder: Path) -> list[Path]:
    """Those of a tokenizer's files that are in its folder."""
    paths = [folder / name for name in TOKENIZER_FILES] + sorted((folder / MORE_TEMPLATES).glob("*"))
    return [path for path in paths if path.is_file()]


def load_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer in `tokenizer_folder`."""
    return read_tokenizer(tokenizer_folder(model))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, whatever else is there or is not."""
    from transformers import AutoTokenizer

    try:
        # A tokenizer that comes as code would be of no use without trust_remote_code, which is never given.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as cause:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {_first_line(cause)}; "
            "a model's folder needs tokenizer.json and tokenizer_config.json"
        ) from cause


_shared: dict[str, PreTrainedTokenizerFast] = {}


def shared_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """`load_tokenizer`, but the one that this process read last, if its files have the same bytes: reading takes a second.

    It must not be changed. The steps of a pipeline ask for the same vocabulary again and again.
    """
    folder = tokenizer_folder(model)
    # An adapter's tokenizer is that of the model it will be merged to.
    whole = model_folder(adapter_base(model)) if is_adapter(model) else folder
    digest = hashlib.sha256(str(read_json(whole / "config.json").get("model_type")).encode())
    for path in tokenizer_files(folder):
        data = path.read_bytes()
        digest.update(f"{path.name}/{len(data)}/".encode() + data)
    key = digest.hexdigest()
    if key not in _shared:
        tokenizer = load_tokenizer(model)
        _shared.clear()
        _shared[key] = tokenizer
    return _shared[key]


def load_model(
    model: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    load_in_4bit: bool = False,
    quantization_config: Any = None,
) -> PreTrainedModel:
    """A causal language model, in evaluation mode, on `device`.

    An adapter comes as its base with the frozen adapter, and those it is stacked upon, beside it (PeftModel). A quantized
    folder keeps its own number formats, whatever `dtype` says; for others None means the format in which they are
    stored. `load_in_4bit` holds the linear layers in nf4 (QLoRA); what is computed with them is computed in `dtype`.
    Another `quantization_config` (transformers') is for whole, plain models.

    Raises ModelError if the model cannot be used.
    """
    if is_adapter(model):
        return _with_adapter(checked_adapter_folder(model), device, dtype, load_in_4bit)

    folder = checked_model_folder(model)
    stored = quantization(folder)
    if stored is not None and load_in_4bit and not stored.get("load_in_4bit"):
        raise ModelError(f"{folder} is quantized already, and not to 4 bit; use load_in_4bit with the plain model")
    if load_in_4bit and stored is None:
        quantization_config = four_bit(dtype)

    options: dict[str, Any] = {"dtype": "auto" if dtype is None or stored is not None else dtype}
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if stored is not None or quantization_config is not None or device.type != "cpu":
        options["device_map"] = {"": device}
    return _from_folder(folder, device, options)


def _from_folder(folder: Path, device: torch.device, options: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError as cause:
        raise ModelError(
            f"the model in {folder} does not fit into the memory of {device}; take a smaller or a quantized one, or load_in_4bit for LoRA"
        ) from cause
    except Exception as cause:
        raise ModelError(
            f"the model in {folder} cannot be loaded: {_first_line(cause)}; if a file of it was cut off, copy or download the model again"
        ) from cause
    if missing := sorted(report["missing_keys"]):
        # transformers fills them with noise and only warns.
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"the model in {folder} lacks {len(missing)} of its weights ({some}); copy or download the model again")
    return model


def _with_adapter(folder: Path, device: torch.device, dtype: torch.dtype | None, load_in_4bit: bool = False) -> PreTrainedModel:
    from peft import PeftModel
    from transformers import GenerationConfig

    base = adapter_base(str(folder))
    parents = parent_folders(folder)
    model = load_model(base, device=device, dtype=dtype, load_in_4bit=load_in_4bit)
    if (folder / "generation_config.json").is_file():
        # It learnt where answers end, which its base may not know.
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False, torch_device=str(device))
        add_parents(adapted, parents, trainable=False)
        return adapted.eval()
    except Exception as cause:
        raise ModelError(f"adapter {folder} does not fit its base model {base}: {_first_line(cause)}") from cause


def merged_model(adapter: str, device: torch.device, dtype: torch.dtype | None) -> PreTrainedModel:
    """The plain model that computes what an adapter, those it is stacked upon and its base compute together.

    Each adapter's product is added in float32, and the sum is rounded once to `dtype` (None: the format in which the
    base is stored): adding in bfloat16 would lose part of the adapter's small change.

    Raises ModelError where the base is quantized, or adapter and base cannot be loaded.
    """
    import torch

    folder = checked_adapter_folder(adapter)
    base = adapter_base(str(folder))
    if quantization(checked_model_folder(base)) is not None:
        raise ModelError(
            f"adapter {folder} cannot be merged: its base {base} is quantized, and merging needs the plain weights; "
            'write the plain model as "base_model_name_or_path" into its adapter_config.json'
        )
    adapted = _with_adapter(folder, device, torch.float32)
    untie_adapted(adapted)
    model = adapted.merge_and_unload(safe_merge=True)
    return model.to(stored_dtype(base) if dtype is None else dtype)


def untie_adapted(model: Any) -> None:
    """Give a PeftModel's output matrix its own weights where it shares the embedding's and one of them is adapted: a merge adds to one."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    base: Any = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or not (isinstance(head, BaseTunerLayer) or isinstance(embedding, BaseTunerLayer)):
        return
    if head.weight is embedding.weight:
        plain: Any = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        plain.weight = nn.Parameter(plain.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def stored_dtype(model: str) -> torch.dtype:
    """The number format in which a model's weights are stored, by its configuration."""
    import torch
    from transformers import AutoConfig

    folder = checked_model_folder(model)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def position_limit(config: PretrainedConfig) -> int | None:
    """How many tokens prompt and answer may have together, scaled rotary embeddings included; None: no limit."""
    config = config.get_text_config()
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if limit is not None and rope.get("factor") and rope.get("original_max_position_embeddings"):
        limit = max(limit, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return limit


def four_bit(compute_dtype: torch.dtype | None) -> Any:
    """bitsandbytes' nf4, the 4-bit format of QLoRA (arXiv 2305.14314): blocks of 64 weights, 16 levels."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)


def lora_target_modules(model: PreTrainedModel) -> list[str]:
    """The names of the layers that LoRA adapts by default.

    The seven projections where the blocks are made of these; where a family has others too (Qwen3.5's gated delta
    attention), every linear layer of the blocks. Never the embedding, the output matrix or what routes to experts.
    """
    from torch import nn

    names = {
        path.rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\blayers\.\d+\.", path)
    } - ROUTERS
    if any(parameter.dim() == 3 and "experts" in path for path, parameter in model.named_parameters()):
        # peft can adapt them (target_parameters), but then neither dropout nor bitsandbytes works.
        logger.info("the experts are fused into one tensor a layer: LoRA adapts attention and dense layers by default")
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layers in its blocks; give target_modules")
    if names <= set(STANDARD_TARGETS):
        return [name for name in STANDARD_TARGETS if name in names]
    return sorted(names)


def _first_line(cause: BaseException) -> str:
    """What an exception says, without the pages that libraries add."""
    text = str(cause).strip()
    return text.splitlines()[0] if text else type(cause).__name__
