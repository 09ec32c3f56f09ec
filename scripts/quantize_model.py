"""Quantize: a smaller copy of a model that plain transformers loads.

4 bit is bitsandbytes' nf4, 8 bit its LLM.int8, both of the linear layers of the blocks; embedding and output matrix
stay as they are. 16 bit is a cast of everything, without bitsandbytes. An adapter is merged into its base first.

In: a model folder or an adapter. Out: `model/`.
"""

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from pyrust_nn import ModelError
from pyrust_nn.files import atomic_folder
from pyrust_nn.models import four_bit, is_adapter, load_model, merged_model, pick_device, stored_dtype
from pyrust_nn.saving import TokenizerFiles, save_model, set_stop_tokens
from pyrust_nn.sources import checked_model_folder, quantization

logger = logging.getLogger(__name__)


def run(params, session):
    """Load as it is to be, save, compare sizes."""
    device = pick_device(params.device)
    tokenizer = TokenizerFiles.of(params.model)
    with plain_model(params.model, tokenizer, device, session) as source:
        if quantization(source) is not None:
            raise ModelError(f"{params.model} is quantized already; give the plain model that it was made from")

        session.progress(1, 3, f"to {params.bits} bit")
        model = load_quantized(source, params.bits, device)
        set_stop_tokens(model.generation_config, tokenizer)

        session.progress(2, 3, "saving")
        with atomic_folder(session.step_folder / "model") as folder:
            save_model(model, tokenizer, folder)
        before, after = weights_size(source), weights_size(session.step_folder / "model")
    session.progress(3, 3)

    return {
        "outputs": {"model": "model"},
        # Of the weight files alone: a folder may hold more than the model. ratio: times smaller.
        "metrics": {"size_before_bytes": before, "size_after_bytes": after, "ratio": round(before / after, 3)},
        "params": {"device": str(device)},
    }


@contextmanager
def plain_model(model, tokenizer, device, session):
    """The folder of a whole model; for an adapter one that lasts as long as the block."""
    if not is_adapter(model):
        yield checked_model_folder(model)
        return
    session.progress(0, 3, "merging the adapter")
    # bitsandbytes quantizes while weights are loaded from files, so the merged ones must be in files.
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=session.step_folder) as folder:
        save_model(merged_model(model, device, None), tokenizer, Path(folder))
        yield Path(folder)


def load_quantized(source, bits, device):
    """The model in its new form; what is not quantized, and what 4 bit computes in, keeps the stored number format."""
    stored = stored_dtype(str(source))
    if bits == 16:
        lacks_bf16 = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return load_model(str(source), device=device, dtype=torch.float16 if lacks_bf16 else torch.bfloat16)
    config = four_bit(stored) if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    model = load_model(str(source), device=device, dtype=stored, quantization_config=config)
    if any(parameter.dim() == 3 and "experts" in name for name, parameter in model.named_parameters()):
        logger.warning("the experts stay in %s: bitsandbytes does not quantize experts fused into one tensor", stored)
    return model


def weights_size(folder):
    """Bytes of a model's weight files."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
