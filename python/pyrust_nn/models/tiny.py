"""`builtin:tiny`: a small Qwen2 model with random weights, generated locally, so that everything can be tried without a download.

It is a folder like any other model's: config.json, generation_config.json, model.safetensors (fp32), tokenizer.json,
tokenizer_config.json and chat_template.jinja. Its content depends only on this file and on tiny_texts.json, never on the
sample or the user's data, the machine or the versions of torch and transformers:

* The tokenizer is byte-level BPE with Qwen2's normalizer and pre-tokenizer (as in its tokenizer.json), trained on
  tiny_texts.json: the sample's texts when sessions were first kept. With others, those sessions could not be resumed.
* The weights are uniform random numbers of standard deviation 0.02 (Qwen2's `initializer_range`) from NumPy's legacy
  Mersenne Twister, whose stream is guaranteed never to change; norms are ones and biases zeros, as in a new Qwen2.

The width of every matrix is a multiple of 256, so that every block format (nf4, q8_0, k-quants) applies to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import _core
from pyrust_nn.files import new_cache_folder, write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

TINY_MODEL = "builtin:tiny"

logger = logging.getLogger(__name__)

SEED = 42
VOCAB_SIZE = 1280
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 256, 512, 2, 4, 2, 64
STANDARD_DEVIATION = 0.02
CONTEXT = 2048

# They follow the ordinary tokens in this order, as in Qwen2's tokenizer.json.
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAD_ID, IM_END_ID = VOCAB_SIZE - 3, VOCAB_SIZE - 1

# Qwen2's pre-tokenizer, copied from its tokenizer.json.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML as Qwen1.5 and Qwen2 ship it.
CHAT_TEMPLATE = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "dtype": "float32",
    "eos_token_id": IM_END_ID,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": STANDARD_DEVIATION,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": CONTEXT,
    "model_type": "qwen2",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": PAD_ID,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}
# An answer ends at the end of the turn or of the text, as with the large Qwen models.
GENERATION_CONFIG: dict[str, Any] = {
    "do_sample": False,
    "eos_token_id": [IM_END_ID, PAD_ID],
    "pad_token_id": PAD_ID,
}
TOKENIZER_CONFIG: dict[str, Any] = {
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "model_max_length": CONTEXT,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def tiny_model_folder() -> Path:
    """The absolute folder of `builtin:tiny`, generated in the cache on the first call.

    The cache is $PYRUST_NN_CACHE, else $XDG_CACHE_HOME/pyrust-nn, else ~/.cache/pyrust-nn. The folder's name contains
    a hash of everything that decides its content, so a new version of the program makes a new folder.

    Raises OSError if the cache cannot be written.
    """
    texts: list[str] = json.loads(_core.embedded_text("python/pyrust_nn/models/tiny_texts.json"))
    folder = _core.cache_folder() / f"tiny-{_content_key(texts)}"
    while not _core.hold_cache_entry(folder):  # it may be removed from a cache that is too large
        with new_cache_folder(folder) as partial:
            _write(partial, texts)
        logger.info("generated %s in %s", TINY_MODEL, folder)
    return folder


def _content_key(texts: list[str]) -> str:
    """16 hex digits of the SHA-256 over everything that decides the folder's bytes."""
    recipe = {
        "texts": texts,
        "seed": SEED,
        "special": SPECIAL_TOKENS,
        "pre_tokenizer": PRE_TOKENIZER,
        "template": CHAT_TEMPLATE,
        "configs": [CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG],
        # This library decides how ties between equally frequent pairs are broken, and the form of the file.
        "tokenizers": version("tokenizers"),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _write(folder: Path, texts: list[str]) -> None:
    from safetensors.numpy import save_file

    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    train_tokenizer(texts).save(str(folder / "tokenizer.json"))
    save_file(random_weights(), str(folder / "model.safetensors"), metadata={"format": "pt"})


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer of Qwen2's kind (byte-level BPE) with VOCAB_SIZE tokens, trained on `texts`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte is a token, so any text can be encoded
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"data.json has too little text for a vocabulary of {VOCAB_SIZE}")
    return tokenizer


def random_weights() -> dict[str, np.ndarray]:
    """All weights of the model under Qwen2's names, float32. Matrices are [out features, in features]."""
    import numpy as np

    random = np.random.RandomState(SEED)

    def matrix(rows: int, columns: int) -> np.ndarray:
        half_width = np.float32(STANDARD_DEVIATION * 3**0.5)  # of the uniform distribution with this standard deviation
        return (random.random_sample((rows, columns)).astype(np.float32) * 2 - 1) * half_width

    def ones(size: int) -> np.ndarray:
        return np.ones(size, dtype=np.float32)

    weights = {"model.embed_tokens.weight": matrix(VOCAB_SIZE, HIDDEN)}  # tied: it is the output matrix too
    for index in range(LAYERS):
        layer = f"model.layers.{index}."
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights[f"{layer}self_attn.{name}_proj.weight"] = matrix(heads * HEAD_DIM, HIDDEN)
            weights[f"{layer}self_attn.{name}_proj.bias"] = np.zeros(heads * HEAD_DIM, dtype=np.float32)
        weights[f"{layer}self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        weights[f"{layer}mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{layer}mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{layer}mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        weights[f"{layer}input_layernorm.weight"] = ones(HIDDEN)
        weights[f"{layer}post_attention_layernorm.weight"] = ones(HIDDEN)
    weights["model.norm.weight"] = ones(HIDDEN)
    return weights
