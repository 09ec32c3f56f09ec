"""Quantize: makes a smaller copy of a model, which plain transformers loads.

4 bits are bitsandbytes' nf4 or fp4, 8 bits its LLM.int8, for the linear layers of the blocks; embedding and output matrix are not
quantized. 16 bits are a cast of all weights, without bitsandbytes. An adapter is merged into its base first.

Input: a model folder or an adapter. Output: `model/`.
"""

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from pyrust_nn import InputError
from pyrust_nn.files import atomic_folder
from pyrust_nn.models.adapter_folder import check_base_model, is_adapter
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.generation import set_stop_tokens
from pyrust_nn.models.loading import four_bit_config, load_model, stored_dtype, stored_shapes
from pyrust_nn.models.merging import merged_model
from pyrust_nn.models.model_folder import checked_model_folder, quantization
from pyrust_nn.models.saving import save_model
from pyrust_nn.models.tokenizers import TokenizerFiles
from pyrust_nn.proof.prove_outputs import prove_outputs

BLOCK = 64  # weights of 4 bits that share a scale

logger = logging.getLogger(__name__)


def run(params, session):
    """Load quantized, save, compare sizes."""
    device = pick_device(params.device)
    check_base_model(params.model, params.base_model)
    tokenizer = TokenizerFiles.from_model(params.model, params.base_model)
    with plain_model(params, tokenizer, device, session) as source:
        if quantization(source) is not None:
            raise InputError(f"{params.model} is already quantized; give the plain model from which it was made")

        if params.bits == 4:
            check_widths(source)
        session.progress(1, 3, f"to {params.bits} bits")
        model = load_quantized(source, params, device)
        set_stop_tokens(model.generation_config, tokenizer, tokenizer.end_of_turn)

        session.progress(2, 3, "saving")
        with atomic_folder(session.step_folder / "model") as folder:
            save_model(model, tokenizer, folder)
        before, after = weights_size(source), weights_size(session.step_folder / "model")
    session.progress(3, 3)
    _, proof = prove_outputs([session.step_folder / "model"], params.model, params, session)

    return {
        "outputs": {"model": "model"},
        # Sizes of the weight files only: a folder may hold more than the model. ratio: before / after.
        "metrics": {"size_before_bytes": before, "size_after_bytes": after, "ratio": round(before / after, 3)},
        "params": {"device": str(device)},
        **proof,
    }


@contextmanager
def plain_model(params, tokenizer, device, session):
    """Yield the folder of a whole model; for an adapter a temporary folder with the merged model."""
    if not is_adapter(params.model):
        yield checked_model_folder(params.model)
        return
    session.progress(0, 3, "merging the adapter")
    # bitsandbytes quantizes weights while they are loaded from files, so the merged weights must be in files.
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=session.step_folder) as folder:
        save_model(merged_model(params.model, device, None, params.base_model), tokenizer, Path(folder))
        yield Path(folder)


def check_widths(source):
    """Raise InputError for a layer whose rows are not whole blocks of 4 bits."""
    for name, shape in stored_shapes(source).items():
        if ".layers." in name and name.endswith("_proj.weight") and len(shape) == 2 and shape[1] % BLOCK:
            raise InputError(
                f"{source} cannot be quantized to 4 bits: {name} has rows of {shape[1]} weights, and 4 bits need a multiple of {BLOCK}; "
                "use bits 8 or 16"
            )


def load_quantized(source, params, device):
    """The model with `params.bits` bits per weight. Weights that are not quantized keep their stored dtype, which 4 bits compute in too."""
    stored = stored_dtype(str(source))
    if params.bits == 16:
        lacks_bf16 = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return load_model(str(source), device=device, dtype=torch.float16 if lacks_bf16 else torch.bfloat16)
    four_bit = params.bits == 4
    config = four_bit_config(stored, params.quant_type, params.double_quant) if four_bit else BitsAndBytesConfig(load_in_8bit=True)
    model = load_model(str(source), device=device, dtype=stored, quantization_config=config)
    if any(parameter.dim() == 3 and "experts" in name for name, parameter in model.named_parameters()):
        logger.warning("the experts stay in %s: bitsandbytes does not quantize experts that are fused into one tensor", stored)
    return model


def weights_size(folder):
    """Bytes of a model's weight files."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
