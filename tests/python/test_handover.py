"""What a step knows is handed over: a data set is prepared once, and weights are read once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from fixtures import write

import pyrust_nn
from pyrust_nn import InputError, ModelError, _core
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.tokenizers import tokenizer_folder
from pyrust_nn.training.rows import PreparedRows

SHORT: dict[str, Any] = {"num_epochs": 1, "batch_size": 4}

SCRIPT = """
PARAMS = {params}


def run(params, session):
    first = session.dataset({name})
    assert session.dataset({name}) == first
    return {{"result": first}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny model as a folder of the user's, written long ago."""
    folder = Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "base"))
    settle(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.json", [(f"What is {i}?", f"It is {i}.") for i in range(6)])


def settle(folder: Path) -> None:
    """Make files look as if written a minute ago: a hash of what was written this moment is not kept."""
    for file in folder.rglob("*"):
        os.utime(file, ns=(0, time.time_ns() - 60_000_000_007))


def preparations(runs: Path) -> list[str]:
    """The lines in which the log of session s tells of a data set: prepared now, or found in the cache."""
    log = (runs / "s/pipeline.log").read_text().splitlines()
    return [line for line in log if re.search(r" conversations?: \d| rows? (is|are) already in ", line)]


def script(folder: Path, params: str, name: str = "") -> Path:
    path = folder / "own.py"
    path.write_text(SCRIPT.format(params=params, name=name))
    return path


@pytest.mark.parametrize("task", [pyrust_nn.finetune_full, pyrust_nn.finetune_lora])
def test_rust_prepares_each_data_set_once_and_python_does_not_ask_again(
    runs: Path, base: Path, data: Path, tmp_path: Path, task: Any
) -> None:
    evaluation = write(tmp_path / "evaluation.json", [("Who?", "Nobody.")])
    made = task("s", base, dataset_path=data, eval_dataset_path=evaluation, **SHORT, runs_dir=runs)
    assert made["metrics"]["rows"] == 6 and made["metrics"]["eval_rows"] == 1
    assert len(preparations(runs)) == 2


@pytest.mark.parametrize("template", ["compared", "own"])
def test_a_warning_of_the_training_data_is_not_repeated_for_the_evaluation_data(
    runs: Path, base: Path, tmp_path: Path, template: str
) -> None:
    """The same words once; other words say that they are about the evaluation data. Where the rows are made, and where they are found."""
    if template == "own":
        path = base / "chat_template.jinja"
        path.write_text(path.read_text() + "{# never compared #}")

    def data(name: str, count: int) -> Path:
        items = [
            {"messages": [{"role": "user", "content": f"{name} {i}?"}, {"role": "assistant", "content": "Yes."}], "note": 1}
            for i in range(count)
        ]
        (tmp_path / name).write_text(json.dumps(items))
        return tmp_path / name

    train = data("train.json", 3)
    for step, count in (("same", 3), ("again", 3), ("other", 2)):
        given = {"dataset_path": train, "eval_dataset_path": data(f"{count}.json", count), "step": step, **SHORT}
        pyrust_nn.finetune_lora("s", base, **given, runs_dir=runs)
    log = [line for line in (runs / "s/pipeline.log").read_text().splitlines() if "these keys are not used" in line]
    assert [line.partition(": ")[2].partition("these")[0] for line in log] == ["", "", "", "evaluation data: "]


def test_what_rust_alone_cannot_prepare_is_prepared_once_as_well(runs: Path, base: Path, data: Path, tmp_path: Path) -> None:
    made = pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data, step="tiny", **SHORT, runs_dir=runs)
    assert made["metrics"]["rows"] == 6 and len(preparations(runs)) == 1

    table = pyarrow.Table.from_pylist(json.loads(data.read_text()))
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    made = pyrust_nn.finetune_lora("s", base, dataset_path=tmp_path / "data.parquet", step="parquet", **SHORT, runs_dir=runs)
    assert made["metrics"]["rows"] == 6 and len(preparations(runs)) == 2

    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# never compared #}")
    made = pyrust_nn.finetune_lora("s", base, dataset_path=data, step="template", **SHORT, runs_dir=runs)
    assert made["metrics"]["rows"] == 6 and len(preparations(runs)) == 3


OTHERS = {"shape": "auto", "columns": {}, "template_kwargs": {}}


def test_a_stage_records_the_options_that_rust_prepared_with(runs: Path, base: Path, data: Path) -> None:
    given = {"max_length": 100, "overlong": "truncate_left", "thinking": "mask", "drop_duplicates": True, "seed": 7}
    made = pyrust_nn.finetune_lora("s", base, dataset_path=data, eval_split=0.2, **given, **SHORT, runs_dir=runs)
    lineage = json.loads((runs / "s" / made["outputs"]["adapter"] / "lineage.json").read_text())
    prepared = pyrust_nn.prepare_dataset(base, dataset_path=data, eval_split=0.2, **given)
    assert prepared["cached"]
    assert lineage["stages"] == [
        {"dataset_path": [str(data)], "digest": prepared["digest"], "eval_split": 0.2, "options": given | OTHERS},
    ]


def test_a_data_set_of_several_files_is_one_input(runs: Path, base: Path, data: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", [("Who?", "Nobody.")])
    made = pyrust_nn.finetune_lora("s", base, dataset_path=[data, other], **SHORT, runs_dir=runs)
    assert made["metrics"]["rows"] == 7
    assert {str(data), str(other)} <= json.loads((runs / "s/session.json").read_text())["sha256"].keys()


def test_a_user_s_script_gets_what_its_parameters_name(runs: Path, base: Path, data: Path, tmp_path: Path) -> None:
    own = script(tmp_path, "{'model': 'builtin:tiny', 'dataset_path': str, 'max_length': 300, 'words': [1, 2], 'seed': 1}")
    made = pyrust_nn.run_script("s", own, params={"model": str(base), "dataset_path": str(data), "seed": 3}, runs_dir=runs)
    expected = pyrust_nn.prepare_dataset(base, dataset_path=data, max_length=300, seed=3)
    options = {"max_length": 300, "overlong": "error", "thinking": "keep", "drop_duplicates": False, "eval_split": 0.0, "seed": 3, **OTHERS}
    assert {**made["result"], "cached": True} == {**expected, "options": options}
    assert len(PreparedRows(made["result"]["path"])) == 6
    assert len(preparations(runs)) == 1


def test_a_user_s_script_may_have_an_evaluation_set_and_a_model_of_a_step(runs: Path, data: Path, tmp_path: Path) -> None:
    pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data, **SHORT, runs_dir=runs)
    own = script(tmp_path, "{'model': '@finetune_lora', 'eval_dataset_path': str, 'eval_split': 0.5}", "'eval_dataset_path'")
    made = pyrust_nn.run_script("s", own, params={"eval_dataset_path": str(data)}, runs_dir=runs)
    assert made["result"]["rows"] == 6 and made["result"]["eval_path"] is None


@pytest.mark.parametrize(
    ("params", "name", "words"),
    [
        ("{}", "", r"session.dataset\(\) .* this script has no parameter dataset_path; add it to PARAMS"),
        ("{'dataset_path': 'data.json'}", "", "this script has no parameter model; add it to PARAMS"),
        ("{'model': 'builtin:tiny', 'dataset_path': None}", "", "the parameter dataset_path is not set"),
        ("{'model': 'builtin:tiny', 'dataset_path': 'd.json'}", "'data'", "give dataset_path or eval_dataset_path"),
        ("{'model': 'builtin:tiny', 'dataset_path': 'none.json'}", "", "there is no data set none.json"),
        ("{'model': 'builtin:tiny', 'dataset_path': 'd.json', 'overlong': 'cut'}", "", "overlong must be"),
    ],
)
def test_a_user_s_script_without_a_data_set_is_told_what_it_lacks(runs: Path, tmp_path: Path, params: str, name: str, words: str) -> None:
    with pytest.raises((InputError, pyrust_nn.UsageError), match=words):
        pyrust_nn.run_script("s", script(tmp_path, params, name), runs_dir=runs)


def test_a_base_is_read_once_however_often_its_hash_is_asked_for(runs: Path, base: Path, data: Path, tmp_path: Path) -> None:
    def times_read(folder: Path) -> int:
        log = (runs / "s/pipeline.log").read_text()
        return log.count(f"{folder / 'model.safetensors'} is hashed")

    made = pyrust_nn.finetune_lora("s", base, dataset_path=data, step="first", **SHORT, runs_dir=runs)
    assert times_read(base) == 1
    adapter = runs / "s" / made["outputs"]["adapter"]
    # The same weights elsewhere: the script compares both, checks the lineage, and Rust records what the step depends on.
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    settle(copy)
    pyrust_nn.finetune_lora("s", copy, dataset_path=data, checkpoint_lora=adapter, step="next", **SHORT, runs_dir=runs)
    assert times_read(base) == 1 and times_read(copy) == 1


def test_ctrl_c_ends_the_hashing_of_large_weights(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # without data on disk; takes many minutes to read
    code = "import sys; from pyrust_nn import _core; print('begins', flush=True); _core.weights_hash(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode in (130, -signal.SIGINT) and b"KeyboardInterrupt" in err


def test_the_hash_of_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    assert _core.weights_hash(tmp_path) is None


def test_an_adapter_without_a_tokenizer_has_its_base_s(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()

    def tokenizer_of_adapter_on(model: str) -> Path:
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": model}))
        assert tokenizer_folder(str(adapter)) == _core.tokenizer_folder(adapter)
        return tokenizer_folder(str(adapter))

    assert tokenizer_of_adapter_on(str(base)) == base
    assert tokenizer_of_adapter_on("builtin:tiny") == model_folder("builtin:tiny")
    with pytest.raises(ModelError, match="is missing: /no/such/base does not exist"):
        tokenizer_of_adapter_on("/no/such/base")
    shutil.copy(base / "tokenizer.json", adapter)
    assert tokenizer_of_adapter_on(str(base)) == adapter
