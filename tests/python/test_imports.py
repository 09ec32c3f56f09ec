"""Importing for a step: what it leaves out, and that nothing of it stays behind."""

import gc
import json
import subprocess
import sys

import pytest

LOOK = """
import gc, json, sys
from pyrust_nn._imports import quick_imports

class Seen(list):
    pass

cycle = Seen(); cycle.append(cycle)
with quick_imports({own}):
    inside = gc.isenabled()
    import torch, bitsandbytes
    late = "torch._dynamo.backends.debugging" not in sys.modules
import torch._C
plain = torch.compile.__module__
del cycle
gc.collect()
left = sum(type(o) is Seen for o in gc.get_objects())
state = dict(inside=inside, late=late, compile=plain, enabled=gc.isenabled(), frozen=gc.get_freeze_count(), left=left)
print(json.dumps(state))
"""


@pytest.mark.parametrize("own", [True, False])
def test_imports_neither_collect_nor_compile_and_leave_both_as_they_were(own):
    done = subprocess.run([sys.executable, "-c", LOOK.replace("{own}", str(own))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert not seen["inside"] and seen["enabled"]
    assert seen["late"] and seen["compile"] == "torch"
    # Somebody's own objects stay garbage that is found.
    assert (seen["frozen"] > 100_000) == own
    assert own or seen["left"] == 0


CALL = """
from pyrust_nn._imports import LateCompiling
import torch
late = LateCompiling()
late.find_spec("bitsandbytes")
asked = []
late._compile = lambda function, **options: asked.append(options) or (lambda x: 2 * function(x))

@torch.compile(dynamic=False)
def plus_one(x):
    "What it does."
    return x + 1

assert not asked and plus_one.__doc__ == "What it does."
assert [plus_one(1), plus_one(2)] == [4, 6] and asked == [{"dynamic": False}]
late.undo()
"""


def test_what_is_decorated_is_compiled_by_its_first_call():
    subprocess.run([sys.executable, "-c", CALL], check=True)


def test_collections_stay_off_where_they_were_off():
    from pyrust_nn._imports import quick_imports

    gc.disable()
    try:
        with quick_imports(own_interpreter=False):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


UNUSED = """
import json, sys
import pyrust_nn
from pyrust_nn._imports import quick_imports

with quick_imports(own_interpreter={own}):
    import peft, transformers.trainer
pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=sys.argv[1], runs_dir=sys.argv[2], num_epochs=1, device="cpu", offline=True)
seen = {"pandas": "pandas" in sys.modules}
import datasets
print(json.dumps(seen | {"rows": datasets.Dataset.from_dict({"x": [1, 2]}).num_rows}))
"""


@pytest.mark.parametrize("own", [True, False])
def test_a_training_does_not_load_what_it_does_not_use(own, tmp_path):
    data = tmp_path / "data.json"
    talk = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    data.write_text(json.dumps([{"messages": talk}] * 2), encoding="utf-8")
    code = UNUSED.replace("{own}", str(own))
    done = subprocess.run([sys.executable, "-c", code, data, tmp_path / "runs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # In an interpreter that is ours alone `datasets`, which loads pandas, waits until somebody uses it.
    assert json.loads(done.stdout.splitlines()[-1]) == {"pandas": not own, "rows": 2}
