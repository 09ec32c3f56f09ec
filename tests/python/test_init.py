"""`init`: new pipelines, conversions of other tools' configurations, the schema; completions, manual pages, the version."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]

LLAMA_FACTORY = """
### model
model_name_or_path: Qwen/Qwen3-0.6B
quantization_bit: 4
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
### dataset
dataset: mine,other
dataset_dir: sets
template: qwen3
cutoff_len: 1024
max_samples: 1000
### output
output_dir: saves/qwen3
logging_steps: 5
save_steps: 500
report_to: none
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
"""

AXOLOTL = """
base_model: Qwen/Qwen3-0.6B
datasets:
  - path: train.jsonl
    type: chat_template
    field_messages: conversations
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 64
lora_target_modules: [q_proj, v_proj]
wandb_project:
gradient_accumulation_steps: 2
micro_batch_size: 1
num_epochs: 1
optimizer: paged_adamw_8bit
lr_scheduler: rex
learning_rate: 0.0002
bf16: auto
tf32: true
gradient_checkpointing: offload
early_stopping_patience: 3
flash_attention: true
"""

UNSLOTH = """
model: unsloth/Qwen3-0.6B
data:
  local_dataset: [train.jsonl]
  format_type: auto
training:
  training_type: full
  max_seq_length: 2048
  num_epochs: 2
  learning_rate: 2e-5
  batch_size: 2
  warmup_steps: 5
  max_steps: 0
  random_seed: 3407
  packing: false
  gradient_checkpointing: "unsloth"
  train_on_completions: true
lora:
  lora_r: 64
  use_loftq: false
  finetune_mlp_modules: true
logging:
  enable_wandb: true
"""

MLX = """
model: Qwen/Qwen3-0.6B
train: true
fine_tune_type: dora
data: mlx
seed: 0
num_layers: 16
batch_size: 4
iters: 30
learning_rate: 1e-5
steps_per_eval: 200
save_every: 100
max_seq_length: 512
grad_checkpoint: true
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 8
  scale: 20.0
  dropout: 0.0
lr_schedule:
  name: cosine_decay
  warmup: 100
  arguments: [1e-5, 1000, 1e-7]
"""

# The configuration; the step that is wanted; words of warnings for what has no counterpart.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "LLaMA-Factory": (
        LLAMA_FACTORY,
        {
            "task": "finetune_lora",
            "load_in_4bit": True,
            "lora_rank": 16,
            "lora_alpha": 32,  # their default
            "lora_dropout": 0.0,
            "max_length": 1024,
            "logging_steps": 5,
            "save_steps": 500,
            "batch_size": 1,
            "gradient_accumulation_steps": 8,
            "learning_rate": 1e-4,
            "num_epochs": 3,
            "scheduler": "cosine",
            "warmup": 0.1,
            "dtype": "bf16",
            "eval_split": 0.1,
        },
        ["template = ", "other has no file in sets/dataset_info.json"],
    ),
    "Axolotl": (
        AXOLOTL,
        {
            "task": "finetune_lora",
            "load_in_4bit": True,
            "eval_split": 0.05,
            "max_length": 4096,
            "packing": "on",
            "lora_rank": 32,
            "lora_alpha": 64,
            "lora_dropout": 0.0,
            "target_modules": ["q_proj", "v_proj"],
            "gradient_accumulation_steps": 2,
            "batch_size": 1,
            "num_epochs": 1,
            "optimizer": "adamw_8bit",
            "learning_rate": 0.0002,
            "gradient_checkpointing": True,
            "early_stopping_patience": 3,
        },
        ["datasets[0].field_messages", 'lr_scheduler = "rex"'],
    ),
    "Unsloth": (
        UNSLOTH,
        {
            "task": "finetune_full",
            "max_length": 2048,
            "num_epochs": 2,
            "learning_rate": 2e-5,
            "batch_size": 2,
            "warmup": 5,
            "seed": 3407,
            "gradient_accumulation_steps": 4,
            "weight_decay": 0.01,
            "packing": "off",
            "gradient_checkpointing": True,
            "report_to": ["wandb"],
        },
        [],
    ),
    "mlx-lm": (
        MLX,
        {
            "task": "finetune_lora",
            "use_dora": True,
            "seed": 0,
            "batch_size": 4,
            "num_epochs": 40.0,  # 30 steps of 4 of 3 conversations
            "learning_rate": 1e-5,
            "eval_steps": 200,
            "save_steps": 100,
            "max_length": 512,
            "gradient_checkpointing": True,
            "target_modules": ["q_proj", "v_proj"],
            "lora_rank": 8,
            "lora_alpha": 160,
            "lora_dropout": 0.0,
            "scheduler": "cosine",
            "warmup": 100,
            "eval_dataset_path": "mlx/valid.jsonl",
        },
        ["num_layers = 16", "lr_schedule.arguments"],
    ),
}
# What is converted into something that is not quite the same.
CHANGED = {"Axolotl": ['optimizer = "paged_adamw_8bit"'], "mlx-lm": ["iters = 30: num_epochs = 40"]}
DATA = {"LLaMA-Factory": "sets/mine.json::max_rows=1000", "Axolotl": "train.jsonl", "Unsloth": "train.jsonl", "mlx-lm": "mlx/train.jsonl"}


def steps(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys above the steps, and the first step."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    schema = json.loads((path.parent / "pipeline.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(table, schema)
    first = table.pop("step")[0]
    return table, first


@pytest.fixture
def data_files(tmp_path: Path, data_json: str) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
    for name, text in (
        (
            "sets/dataset_info.json",
            json.dumps({"mine": {"file_name": "mine.json"}, "other": {"script_url": "a"}, "hub": {"hf_hub_url": "a/b", "split": "s"}}),
        ),
        ("sets/mine.json", Path(data_json).read_text(encoding="utf-8")),
        ("train.jsonl", line),
        ("mlx/train.jsonl", line * 3),
        ("mlx/valid.jsonl", line),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("tool", CONFIGURATIONS)
def test_the_configuration_of_another_tool_is_converted(tool: str, cli: Cli, tmp_path: Path, data_files: None, runs: Path) -> None:
    text, wanted, warnings = CONFIGURATIONS[tool]
    (tmp_path / "theirs.yaml").write_text(text)
    done = cli("init", "--from", "theirs.yaml")
    assert done.returncode == 0, done.stderr
    top, step = steps(tmp_path / "pipeline.toml")
    model = "unsloth/Qwen3-0.6B" if tool == "Unsloth" else "Qwen/Qwen3-0.6B"
    assert top == {"model": model, "dataset_path": DATA[tool]}
    assert step == wanted
    written = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    for words in warnings:
        assert words in done.stderr and words in written, f"{words}\n{done.stderr}"
    for words in CHANGED.get(tool, []):
        assert f"converted {words}" in done.stdout and f"# Converted: {words}" in written, f"{words}\n{done.stdout}{written}"
    # Every key with a value is converted, named as not needed, or warned of.
    assert len([line for line in done.stderr.splitlines() if "theirs.yaml" in line]) == len(warnings), done.stderr
    done = cli("run", "--dry-run", "-m", "builtin:tiny", "--max-length", "2048", "--runs-dir", runs)
    assert done.returncode == 0, done.stderr


def test_what_their_file_does_not_say_is_what_their_tool_does(cli: Cli, tmp_path: Path, data_files: None, data_json: str) -> None:
    """Of 31 conversations, mlx-lm trains 1000 steps of 4."""
    for text, wanted in (
        (
            f"model: m\ndata: {data_json}\nfine_tune_type: lora\nnum_layers: -1\n",
            {"learning_rate": 1e-5, "scheduler": "constant", "num_epochs": 129.032, "lora_alpha": 160, "lora_dropout": 0},
        ),
        (
            f"model_name_or_path: m\ndataset: {data_json}\nlora_rank: 4\nlearning_rate: 1e-3\n",
            {"learning_rate": 1e-3, "scheduler": "linear", "batch_size": 8, "lora_alpha": 8, "lora_dropout": 0, "lora_rank": 4},
        ),
        (
            f"model_name_or_path: m\ndataset: {data_json}\nfinetuning_type: full\n",
            {"task": "finetune_full", "learning_rate": 5e-5, "scheduler": "linear", "batch_size": 8},
        ),
        (
            f"base_model: m\nadapter: lora\nlora_r: 8\nlearning_rate: 2e-4\nmax_steps: 31\ndatasets:\n  - path: {data_json}\n",
            {"num_epochs": 1, "batch_size": 1, "max_length": 512, "lora_dropout": 0, "lora_rank": 8, "learning_rate": 2e-4},
        ),
    ):
        (tmp_path / "theirs.yaml").write_text(text)
        done = cli("init", "--from", "theirs.yaml", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert steps(tmp_path / "pipeline.toml")[1] == {"task": "finetune_lora"} | wanted, text
        assert re.search(r"^# Defaults of \S+: \w+", (tmp_path / "pipeline.toml").read_text(), re.MULTILINE)


def test_a_folder_of_mlx_without_data_is_named_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("model: m\ndata: nowhere\niters: 5\nnum_layers: -1\n")
    done = cli("init", "--from", "theirs.yaml")
    assert done.returncode == 0 and done.stderr.count("nowhere/train.jsonl") == 1, done.stderr


def test_data_sets_of_the_hub_keep_their_split_and_name(cli: Cli, tmp_path: Path, data_files: None) -> None:
    """Nothing is fetched: `init` only writes what a run would read."""
    llama = "model_name_or_path: Qwen/Qwen3-0.6B\ndataset_dir: sets\nmax_samples: 5\ndataset: "
    axolotl = "base_model: Qwen/Qwen3-0.6B\nadapter: lora\ndatasets:\n- path: a/b\n  split: train\n  name: main\n  type: chat_template\n"
    for text, wanted in (
        (llama + "hub", "a/b::split=s,max_rows=5"),
        (llama + "hub,mine", ["a/b::split=s,max_rows=5", "sets/mine.json::max_rows=5"]),
        (axolotl, "a/b::split=train,name=main"),
        ("model: Qwen/Qwen3-0.6B\niters: 10\ndata: a/b\n", "a/b"),
    ):
        (tmp_path / "theirs.yaml").write_text(text)
        done = cli("init", "--from", "theirs.yaml", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert steps(tmp_path / "pipeline.toml")[0]["dataset_path"] == wanted


def test_a_number_of_steps_becomes_epochs_of_any_data_that_can_be_counted(cli: Cli, tmp_path: Path, data_json: str) -> None:
    """The sample has 31 conversations; a tenth is kept for evaluation."""
    head = f"model_name_or_path: m\nper_device_train_batch_size: 2\nmax_steps: 62\ndataset: {data_json}\n"
    for more, epochs in (("", 4), ("max_samples: 10\n", 12.4), ("val_size: 0.1\n", 62 * 2 / 28)):
        (tmp_path / "theirs.yaml").write_text(head + more)
        done = cli("init", "--from", "theirs.yaml", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert steps(tmp_path / "pipeline.toml")[1]["num_epochs"] == pytest.approx(epochs, abs=1e-3), done.stdout
        assert "Not converted: max_steps" not in (tmp_path / "pipeline.toml").read_text()


def test_what_cannot_be_converted_is_refused_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    for text, code, words in (
        ("stage: dpo\nmodel_name_or_path: m\n", 2, "stage = "),
        ("base_model: m\nrl: dpo\n", 2, "rl = "),
        ("model_name_or_path: m\nfinetuning_type: oft\n", 2, "oft is not supported"),
        ("a: [1\n", 2, "is not valid YAML"),
        ("- 1\n", 2, "must have keys and values"),
        ("lr: 1\n", 2, "of no known tool"),
    ):
        (tmp_path / "theirs.yaml").write_text(text)
        done = cli("init", "--from", "theirs.yaml")
        assert done.returncode == code and words in done.stderr, done.stderr
    done = cli("init", "--from", "nowhere.yaml")
    assert done.returncode == 2 and "cannot be read" in done.stderr
    assert not (tmp_path / "pipeline.toml").exists()


def test_a_new_pipeline_runs_and_is_never_overwritten_without_the_flag(cli: Cli, tmp_path: Path, runs: Path, data_json: str) -> None:
    done = cli("init", data_json, "-m", "builtin:tiny")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "pipeline.toml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#:schema ./pipeline.schema.json\n")
    top, step = steps(path)
    # The built-in model has random weights.
    sample = tomllib.loads((CHECKOUT / "pipeline.toml").read_text(encoding="utf-8"))["for"]["builtin:tiny"]["finetune_full"]
    assert (top, step) == ({"model": "builtin:tiny", "dataset_path": data_json}, {"task": "finetune_full"} | sample)
    assert "random weights" in text
    done = cli("init", data_json, "-m", "builtin:tiny", "--task", "finetune_lora", "--overwrite")
    assert done.returncode == 0 and "random weights, and LoRA alone" in done.stderr, done.stderr
    text = path.read_text(encoding="utf-8")
    assert steps(path)[1] == {"task": "finetune_lora"}
    # A parameter in a comment is valid when its # is removed.
    own, _ = text.split('\n# "@finetune_lora"')
    lines = [line.removeprefix("# ") if line.startswith("# ") and " = " in line and " …" not in line else line for line in own.splitlines()]
    (tmp_path / "all.toml").write_text("\n".join(lines), encoding="utf-8")
    all_set = steps(tmp_path / "all.toml")[1]
    assert {"num_epochs", "lora_rank", "target_modules", "save_steps", "eval_split"} <= set(all_set)
    for file in ("pipeline.toml", "all.toml"):
        done = cli("run", file, "--dry-run", "--runs-dir", runs)
        assert done.returncode == 0, done.stderr
    done = cli("run", "--num-epochs", "1", "--runs-dir", runs, "--session", "s")
    assert done.returncode == 0, done.stderr
    assert (runs / "s/inference/answers.jsonl").is_file()
    path.write_text("mine")
    done = cli("init", data_json, "-m", "builtin:tiny")
    assert done.returncode == 2 and "already exists" in done.stderr and path.read_text() == "mine"
    done = cli("init", "-d", data_json, "-m", "builtin:tiny", "--overwrite", "--task", "finetune_full")
    assert done.returncode == 0 and steps(path)[1] == {"task": "finetune_full"}
    done = cli("init", data_json, "--output", "other.toml")
    assert done.returncode == 2 and "init needs --model" in done.stderr


def test_the_schema_accepts_what_the_program_accepts(cli: Cli, tmp_path: Path) -> None:
    schema = json.loads((CHECKOUT / "docs/pipeline.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads((CHECKOUT / "pipeline.toml").read_text(encoding="utf-8")), schema)
    step = '[[step]]\ntask = "finetune_lora"\n'
    (tmp_path / "d.jsonl").write_text("")
    for text, valid in (
        (f'model = "m"\ndataset_path = ["a", "b"]\nseed = 1\n{step}lora_rank = 8\n', True),
        (f'model = "m"\ndataset_path = "d"\n{step}target_modules = ["q_proj"]\nreport_to = "wandb"\n', True),
        (f'model = "m"\ndataset_path = "d"\n{step}lora_rnk = 8\n', False),
        (f'model = "m"\ndataset_path = "d"\n{step}lora_rank = "8"\n', False),
        (f'model = "m"\ndataset_path = "d"\n{step}lora_rank = 0\n', False),
        (f'model = "m"\ndataset_path = "d"\n{step}learning_rate = 0\n', False),
        (f'model = "m"\ndataset_path = "d"\n{step}device = "gpu"\n', False),
        (f'model = "m"\ndataset_path = "d"\n{step}bits = 8\n', False),
        (f'modle = "m"\n{step}', False),
        ('model = "m"\n', False),
        ('[[step]]\ntask = "finetune_lra"\n', False),
        ('[[step]]\ntask = "merge"\nmodel = "m"\n[for."m".merge]\nseeed = 1\n', False),
        ('[[step]]\ntask = "inference"\nmodel = "m"\nprompt = ["a", [{role = "user", content = "b"}]]\n', True),
        ('[[step]]\ntask = "inference"\nmodel = "m"\nprompt = ["a", 1]\n', False),
    ):
        errors = list(jsonschema.Draft7Validator(schema).iter_errors(tomllib.loads(text)))
        assert (not errors) == valid, f"{text}{errors}"


def test_a_model_of_another_family_is_a_warning(cli: Cli, tmp_path: Path, data_json: str) -> None:
    (tmp_path / "theirs.yaml").write_text(
        f"base_model: meta-llama/Llama-3.2-1B\ndatasets:\n  - path: {data_json}\n    type: chat_template\n"
    )
    done = cli("init", "--from", "theirs.yaml")
    words = "meta-llama/Llama-3.2-1B is of the family llama, not Qwen: "
    assert done.returncode == 0 and words in done.stderr and "cannot be converted to GGUF" in done.stderr, done.stderr
    assert f"# Note: {words}" in (tmp_path / "pipeline.toml").read_text()
    done = cli("init", data_json, "-m", "Qwen/Qwen3-0.6B", "--overwrite")
    assert done.returncode == 0 and "family" not in done.stderr, done.stderr
    done = cli("init", "--from", "their.yaml")
    assert done.returncode == 2 and "did you mean theirs.yaml?" in done.stderr, done.stderr


def completed(folder: Path, line: str) -> set[str]:
    """What an interactive bash would offer at the end of a line, files included: a program calls bash's own completion."""
    script = """source ./complete.bash
        words=($1); [[ $1 == *' ' ]] && words+=('')
        COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE=$1; COMP_POINT=${#1}
        cur=${words[COMP_CWORD]}; prev=${words[COMP_CWORD - 1]}
        files=yes
        compopt() { case "$*" in '+o bashdefault +o default') files=no;; esac; }
        function=$(complete -p pyrust-nn | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function pyrust-nn "$cur" "$prev"
        printf '%s\\n' "${COMPREPLY[@]}"
        if [[ $files == yes && ${#COMPREPLY[@]} == 0 ]]; then compgen -f -- "$cur"; fi
    """
    done = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True, cwd=folder)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    return set(done.stdout.split())


def test_bash_offers_the_sessions(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "complete.bash").write_text(cli("completions", "bash").stdout)
    monkeypatch.delenv("PYRUST_NN_RUNS", raising=False)
    for folder in ("runs/alpha", "runs/beta", "runs/none", "elsewhere/gamma"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "runs/none":
            (tmp_path / folder / "session.json").write_text("{}")
    for line in ("status ", "watch ", "compare alpha ", "merge --session ", "serve stop ", "sessions rm ", "import --session "):
        assert {"alpha", "beta"} <= completed(tmp_path, f"pyrust-nn {line}"), line
        assert not {"none", "gamma", "session.json"} & completed(tmp_path, f"pyrust-nn {line}"), line
    assert "beta" in completed(tmp_path, "pyrust-nn resume b") and "alpha" not in completed(tmp_path, "pyrust-nn resume b")
    monkeypatch.setenv("PYRUST_NN_RUNS", "elsewhere")
    assert "gamma" in completed(tmp_path, "pyrust-nn report ")


def test_bash_offers_the_choices_of_a_flag_and_no_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "complete.bash").write_text(cli("completions", "bash").stdout)
    (tmp_path / "bf16_notes.txt").touch()
    (tmp_path / "-odd").touch()
    for line, wanted in (
        ("pyrust-nn finetune-lora --dtype ", {"auto", "bf16", "fp16", "fp32"}),
        ("pyrust-nn finetune-lora --dtype b", {"bf16"}),
        ("pyrust-nn finetune-lora --dtype x", set()),
        ("pyrust-nn run --scheduler ", {"cosine", "linear", "constant"}),
        ("pyrust-nn inference --device ", {"auto", "cpu", "cuda"}),
        ("pyrust-nn convert-lora-to-gguf --outtype ", {"f32", "f16", "bf16", "q8_0"}),
        ("pyrust-nn convert-lora-to-gguf --outtype f16 q", {"q8_0"}),
        ("pyrust-nn convert-model-to-gguf --outtype Q9", set()),
        ("pyrust-nn finetune-lora --lora-rank ", set()),
        ("pyrust-nn sessions --sort ", {"session", "state", "model", "task", "loss", "size", "age"}),
        ("pyrust-nn finetune-lora --zz", set()),
    ):
        assert completed(tmp_path, line) == wanted, line
    for line in ("pyrust-nn finetune-lora -", "pyrust-nn merge -", "pyrust-nn finetune-lora data.json -", "pyrust-nn -"):
        offered = completed(tmp_path, line)
        assert "--offline" in offered and "-odd" not in offered and all(word.startswith("-") for word in offered), line
    assert "bf16_notes.txt" in completed(tmp_path, "pyrust-nn finetune-lora --dataset-path b")
    assert "bf16_notes.txt" in completed(tmp_path, "pyrust-nn finetune-lora -d b")
    assert "bf16_notes.txt" in completed(tmp_path, "pyrust-nn merge b")


def test_completions_know_commands_and_flags(cli: Cli, tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish", "elvish", "powershell"):
        done = cli("completions", shell)
        assert done.returncode == 0 and "finetune-lora" in done.stdout and "lora-rank" in done.stdout, shell
    (tmp_path / "complete.bash").write_text(cli("completions", "bash").stdout)
    # As bash calls it: the command, the word to complete, the word before.
    script = """source ./complete.bash
        function=$(complete -p pyrust-nn | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=(pyrust-nn finetune-lora --lora-); COMP_CWORD=2
        $function pyrust-nn --lora- finetune-lora; printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert {"--lora-rank", "--lora-alpha", "--lora-dropout"} <= set(done.stdout.split()), done.stderr
    assert cli("completions", "tcsh").returncode == 2


def test_manual_pages(cli: Cli, tmp_path: Path) -> None:
    done = cli("man", "--dir", "pages")
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (tmp_path / "pages").iterdir()}
    assert {"pyrust-nn", "pyrust-nn-finetune-lora", "pyrust-nn-init"} <= names
    text = (tmp_path / "pages/pyrust-nn-finetune-lora.1").read_text()
    assert ".TH pyrust-nn-finetune-lora 1" in text
    assert "lora\\-rank" in text and "Examples" in text
    assert ".TH pyrust-nn 1" in cli("man").stdout
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-k", "-man", "-Tutf8", "-ww", "pages/pyrust-nn-finetune-lora.1"], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_manual_page_of_a_command(cli: Cli) -> None:
    page = cli("man", "merge").stdout
    assert "pyrust\\-nn\\-merge" in page and "base\\-model" in page, page
    done = cli("man", "mrege")
    assert done.returncode == 2 and "there is no command mrege; did you mean merge?" in done.stderr, done.stderr


def test_what_does_not_exist_is_a_warning(cli: Cli, tmp_path: Path, data_json: str) -> None:
    (tmp_path / "data.json").write_text("[]")
    done = cli("init", "dta.json", "-m", "./nowhere")
    assert done.returncode == 0 and (tmp_path / "pipeline.toml").exists()
    for words in ("there is no data set dta.json", "did you mean data.json?", "there is no model ./nowhere"):
        assert words in done.stderr, done.stderr
    done = cli("init", "data.json", "-m", "builtin:tiny", "--overwrite")
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_version_names_the_commit(cli: Cli) -> None:
    done = cli("--version")
    name, version, *commit = done.stdout.split(maxsplit=2)
    assert done.returncode == 0 and (name, version) == ("pyrust-nn", "0.1.0")
    if commit and (CHECKOUT / ".git").exists():
        found = subprocess.run(["git", "cat-file", "-e", commit[0].strip("()\n").split()[0]], cwd=CHECKOUT)
        assert found.returncode == 0, done.stdout


def test_what_is_so_here_anyway_needs_no_counterpart_and_a_limit_is_not_forgotten(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text("model_name_or_path: Qwen/Qwen3-0.6B\ndataset: mine\nmax_samples: 7\nenable_thinking: false\n")
    done = cli("init", "--from", tmp_path / "l.yaml", "-o", tmp_path / "l.toml", cwd=tmp_path)
    shown = " ".join(done.stderr.split() + done.stdout.split())
    assert "FILE::max_rows=7" in shown, shown
    assert tomllib.loads((tmp_path / "l.toml").read_text())["step"][0]["template_kwargs"] == {"enable_thinking": False}
    (tmp_path / "a.yaml").write_text("base_model: Qwen/Qwen3-0.6B\nadapter: lora\nlora_target_linear: true\nmicro_batch_size: 2\n")
    done = cli("init", "--from", tmp_path / "a.yaml", "-o", tmp_path / "a.toml", cwd=tmp_path)
    assert "lora_target_linear" not in done.stderr, "it is no warning"
    assert "lora_target_linear (all linear layers of the blocks are adapted)" in " ".join((tmp_path / "a.toml").read_text().split())
