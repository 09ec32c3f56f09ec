"""The imports of a step: what is left out, and that the changes are undone."""

import gc
import json
import os
import shutil
import subprocess
import sys

import pytest

LOOK = """
import gc, json, sys
from pyrust_nn import _core
from pyrust_nn._runtime.imports import fast_imports

class Seen(list):
    pass

cycle = Seen(); cycle.append(cycle)
_core.owns_interpreter = lambda: {own}
with fast_imports():
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
from pyrust_nn._runtime.imports import DeferredCompile
import torch
late = DeferredCompile()
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
    from pyrust_nn._runtime.imports import fast_imports

    gc.disable()
    try:
        with fast_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


UNUSED = """
import json, sys
import pyrust_nn

pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=sys.argv[1], runs_dir=sys.argv[2], num_epochs=1, device="cpu", offline=True)
print(json.dumps([name for name in ("pandas", "datasets", "transformers.trainer") if name in sys.modules]))
"""


def test_a_training_does_not_load_what_it_does_not_use(tmp_path):
    data = tmp_path / "data.json"
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    data.write_text(json.dumps([{"messages": messages}] * 2), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", UNUSED, data, tmp_path / "runs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


STRUCTURE = """
import json, sys
from pathlib import Path
from pyrust_nn._runtime.imports import fast_imports

read = []
def look(event, details):
    if event == "open" and "/transformers/models/" in str(details[0]) and str(details[0]).endswith(".py"):
        read.append(details[0])
sys.addaudithook(look)
with fast_imports():
    from transformers.models.qwen2 import Qwen2Config
    import transformers
count = len(read)
from transformers.utils import import_utils
own = import_utils.define_import_structure.__wrapped__
models = Path(transformers.__file__).parent / "models"
asked = ((models, "models"), (models / "__init__.py",), (models / "qwen2",))
same = [import_utils.define_import_structure(*given) == own(*given) for given in asked]
loader = type(import_utils.__loader__).__name__
print(json.dumps({"read": count, "same": same, "loader": loader, "hooks": [type(one).__name__ for one in sys.meta_path]}))
"""


def test_the_names_in_transformers_are_read_once_and_then_come_from_the_cache(tmp_path):
    def seen():
        environment = os.environ | {"PYRUST_NN_CACHE": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", STRUCTURE], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    first = seen()
    (file,) = (tmp_path / "imports").iterdir()
    second = seen()
    assert first["read"] > 1000 and second["read"] < 100
    for state in (first, second):
        assert state["same"] == [True] * 3 and state["loader"] == "SourceFileLoader" and "KeptImportStructure" not in state["hooks"]
    # A damaged file is made again, and a cache that cannot be written is done without.
    file.write_text("[[")
    assert seen()["read"] > 1000 and json.loads(file.read_text())
    shutil.rmtree(tmp_path / "imports")
    (tmp_path / "imports").write_text("in the way")
    assert seen()["same"] == [True] * 3
