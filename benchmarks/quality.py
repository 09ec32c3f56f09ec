"""What each type of GGUF file costs in quality, with and without an importance matrix from one's own conversations.

    PYRUST_NN_REAL_MODEL=… python benchmarks/quality.py        # `make bench-quality`, some 40 minutes

The model is a pretrained one (../shared/real-model/make.py makes it); figures on random weights would say nothing. It is trained for one
epoch on questions about the docstrings of Python's standard library, because its weights lie on a grid of 4 bits as they come.
Importance is computed on the same conversations. Predictions are compared on others: KL from the model in float32, how often the most
likely token is the same, perplexity.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import described, save

import pyrust_nn

SHARED = Path(__file__).resolve().parents[2] / "shared"
TYPES = ["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs"]
TYPES += ["q3_k_l", "q3_k_m", "q3_k_s", "q2_k"]
WEIGHTED = TYPES[3:]
FIGURES = ("mean_kl", "p999_kl", "top1", "perplexity")


def docstrings() -> Iterator[tuple[str, str]]:
    """Names of functions and classes of the standard library, and what their docstrings say in at least 20 words."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)) and len(text.split()) >= 20:
                yield f"{path.stem}.{node.name}", text


def write_conversations(path: Path, found: list[tuple[str, str]]) -> Path:
    """A data set of one question and answer each."""
    rows = [
        {"messages": [{"role": "user", "content": f"What is {name} in Python?"}, {"role": "assistant", "content": t}]} for name, t in found
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def figures(proofs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each file, by its type."""
    found = {}
    for proof in proofs:
        outtype = Path(proof["file"]).stem.rsplit(".", 1)[-1]
        found[outtype] = {name: proof["layers"]["logits"][name] for name in FIGURES}
    return found


def main() -> None:
    """Train, compute the matrix, convert to every type twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=os.environ.get("PYRUST_NN_REAL_MODEL", SHARED / "real-model/qwen2"))
    parser.add_argument("--tokens", type=int, default=2000, help="tokens on which predictions are compared")
    parser.add_argument("--train", type=int, default=120, help="conversations to train on and to compute importance on")
    options = parser.parse_args()
    if not Path(options.model).is_dir():
        sys.exit(f"there is no model {options.model}; make it by real-model/make.py and name its folder in PYRUST_NN_REAL_MODEL")

    found = list(docstrings())
    random.Random(0).shuffle(found)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = write_conversations(folder / "train.json", found[: options.train])
        held_out = write_conversations(folder / "held_out.json", found[options.train : options.train + 200])
        common: dict[str, Any] = {"runs_dir": folder / "runs"}
        cut: dict[str, Any] = {"max_length": 512, "overlong": "truncate_right", **common}
        pyrust_nn.finetune_full("q", str(options.model), dataset_path=train, num_epochs=1, learning_rate=1e-5, sample_prompts=0, **cut)
        matrix = pyrust_nn.compute_imatrix("q", "@finetune_full", dataset_path=train, **cut)
        pyrust_nn.convert_model_to_gguf("q", "@finetune_full", step="plain", outtype=TYPES, verify=False, **common)
        pyrust_nn.convert_model_to_gguf(
            "q", "@finetune_full", step="weighted", outtype=WEIGHTED, imatrix="@compute_imatrix", verify=False, **common
        )
        results: dict[str, Any] = {"machine": described(), "tokens": options.tokens, "imatrix": matrix["metrics"]}
        for step in ("plain", "weighted"):
            # Answers of files of few bits may differ; that is no failure here.
            with contextlib.suppress(pyrust_nn.ProofError):
                pyrust_nn.verify(
                    "q", "@finetune_full", candidate=f"@{step}", step=f"of_{step}", dataset_path=held_out, verify_tokens=options.tokens,
                    max_kl=1000.0, **cut,
                )  # fmt: skip
            proofs = json.loads((folder / "runs/q" / f"of_{step}" / "proof.json").read_text(encoding="utf-8"))
            summary = json.loads((folder / "runs/q" / f"of_{step}" / "summary.json").read_text(encoding="utf-8"))
            results["reference_perplexity"] = proofs[0]["layers"]["logits"]["reference_perplexity"]
            results[step] = figures(proofs)
            results[f"{step}_seconds"] = summary["duration_s"]
            for outtype, of in results[step].items():
                of["bytes"] = next((folder / "runs/q" / step).glob(f"*.{outtype}.gguf")).stat().st_size
    save("quality", results)
    for outtype, of in results["plain"].items():
        weighted = results["weighted"].get(outtype, {})
        print(outtype, of, weighted)


if __name__ == "__main__":
    main()
