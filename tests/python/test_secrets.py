"""Keys, tokens and passwords are in no file of a session, and whoever resumes it is asked for them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

API_KEY, NESTED, FORM, PASSWORD = "plain-value-17", "n3sted/=value", "hf_AbCdEfGh12345678", "pass:w0rd-in-url"
SECRETS = (API_KEY, NESTED, FORM, PASSWORD)
URL = f"https://me:{PASSWORD}@example.org/x"

SCRIPT = """
import logging, pathlib, sys
PARAMS = {"api_key": "", "service": {}, "note": "", "max_tokens": 1, "pad_token": "", "fail": True}
def run(params, session):
    print("printed", params.api_key, params.service)
    logging.getLogger("own").warning("logged %s %s", params.service["credentials"]["token"], params.note)
    sys.stderr.write(params.note + chr(10))
    pathlib.Path("seen").write_text(repr(params))
    if params.fail and not pathlib.Path("repaired").exists():
        raise ValueError(f"cannot log in with {params.api_key} at {params.note}") from OSError(str(params.service))
    return {"said": f"the key is {params.api_key}"}
"""

PARAMS: dict[str, Any] = {
    "api_key": API_KEY,
    "service": {"name": "x", "credentials": {"token": NESTED}},
    "note": f"{URL} {FORM}",
    "max_tokens": 77,
    "pad_token": "<pad>",
}


def assert_redacted(session: Path) -> str:
    """No secret is in any file of the session but the script's own; returns all of their text."""
    texts = [path.read_text(encoding="utf-8") for path in session.rglob("*") if path.is_file() and path.name != "script.py"]
    whole = "\n".join(texts)
    assert [secret for secret in SECRETS if secret in whole or json.dumps(secret)[1:-1] in whole] == []
    assert {"session.json", "pipeline.log"} <= {path.name for path in session.iterdir()}
    return whole


def test_no_file_of_a_session_holds_a_secret_and_resume_asks_for_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT, encoding="utf-8")
    given = [
        word for name, value in PARAMS.items() for word in ("--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    ]
    done = cli("script", "own.py", "--session", "s", "--json", *given)
    assert done.returncode == 1
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "script" and "<redacted>" in error["message"] and "<redacted>" in error["traceback"]
    text = assert_redacted(tmp_path / "runs/s")
    assert "https://me:<redacted>@example.org/x <redacted>" in text and "<pad>" in text
    for name in ("summary.json", "begun.json"):
        kept = json.loads((tmp_path / "runs/s/script" / name).read_text(encoding="utf-8"))["params"]["params"]
        assert (kept["api_key"], str(kept["max_tokens"]), kept["pad_token"]) == ("<redacted>", "77", "<pad>")
    argv = json.loads((tmp_path / "runs/s/session.json").read_text(encoding="utf-8"))["invocations"][0]["argv"]
    assert "api_key=<redacted>" in argv and "max_tokens=77" in argv

    refused = cli("resume", "s")
    assert refused.returncode == 2 and "api_key" in refused.stderr and "PYRUST_NN_SECRET_" in refused.stderr
    refused = cli("resume", "s", "--secret", f"api_key={API_KEY}")
    assert refused.returncode == 2 and "note" in refused.stderr and "api_key" not in refused.stderr
    (tmp_path / "repaired").touch()
    env = os.environ | {"PYRUST_NN_SECRET_NOTE": PARAMS["note"], "PYRUST_NN_SECRET_SERVICE": json.dumps(PARAMS["service"])}
    done = cli("resume", "s", "--secret", f"api_key={API_KEY}", env=env)
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text(encoding="utf-8")
    assert all(secret in seen for secret in SECRETS)
    assert "the key is <redacted>" in assert_redacted(tmp_path / "runs/s")


def test_a_pipeline_asks_only_for_the_secrets_of_steps_that_still_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(
        "PARAMS = {'hf_token': ''}\ndef run(params, session):\n    assert params.hf_token == 'first-secret'\n"
    )
    (tmp_path / "second.py").write_text("import pathlib\ndef run(params, session):\n    assert pathlib.Path('repaired').exists()\n")
    third = "PARAMS = {'auth': {}}\ndef run(params, session):\n    assert params.auth == {'password': 'third-secret', 'user': 'me'}\n"
    (tmp_path / "third.py").write_text(third)
    (tmp_path / "pipeline.toml").write_text(
        "session = 's'\n"
        "[[step]]\ntask = 'script'\nname = 'first'\nscript = 'first.py'\nparams = { hf_token = 'first-secret' }\n"
        "[[step]]\ntask = 'script'\nname = 'second'\nscript = 'second.py'\n"
        "[[step]]\ntask = 'script'\nname = 'third'\nscript = 'third.py'\nparams = { auth = { password = 'third-secret', user = 'me' } }\n"
    )
    assert cli("run").returncode == 1
    whole = "".join(path.read_text() for path in (tmp_path / "runs/s").rglob("*") if path.is_file() and path.name != "script.py")
    assert "-secret" not in whole
    (tmp_path / "repaired").touch()
    with pytest.raises(pyrust_nn.UsageError, match=r"third.*secrets=\{"):
        pyrust_nn.resume("s")
    with pytest.raises(pyrust_nn.UsageError, match="hf_token"):
        pyrust_nn.resume("s", secrets={"auth.password": "third-secret", "auth.user": "me", "hf_token": "x"})
    done = pyrust_nn.resume("s", secrets={"third/auth.password": "third-secret", "auth.user": "me"})
    assert [one["step"] for one in done] == ["second", "third"]


def test_python_redacts_too_and_a_step_without_secrets_is_resumed_without_any(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT, encoding="utf-8")
    with pytest.raises(pyrust_nn.ScriptError) as raised:
        pyrust_nn.run_script("s", "own.py", params=PARAMS)
    assert not any(secret in f"{raised.value}{raised.value.summary}{raised.value.causes}" for secret in SECRETS)
    assert_redacted(tmp_path / "runs/s")
    (tmp_path / "plain.py").write_text("PARAMS = {'max_tokens': 5}\ndef run(params, session):\n    raise ValueError(params.max_tokens)\n")
    with pytest.raises(pyrust_nn.ScriptError):
        pyrust_nn.run_script("t", "plain.py", params={"max_tokens": 7})
    with pytest.raises(pyrust_nn.ScriptError, match="7"):
        pyrust_nn.resume("t")


def test_a_refused_attempt_leaves_no_secret_in_the_log(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def run(params, session):\n    pass\n", encoding="utf-8")
    assert cli("script", "own.py", "--session", "s").returncode == 0
    for words in (["--params-api-key", API_KEY], [f"--hf-token={API_KEY}"], ["--param", f"password={API_KEY}", "--sed", "1"]):
        refused = cli("script", "own.py", "--session", "s", *words)
        assert refused.returncode == 2
    (tmp_path / "bad.toml").write_text(f"session = 's'\n[[step]]\ntask = 'script'\nscript = 'own.py'\nparams = {{ api_key = '{API_KEY}' \n")
    assert cli("run", "bad.toml", "--session", "s").returncode == 2
    assert_redacted(tmp_path / "runs/s")


def test_the_place_of_a_secret_and_the_working_directory_are_none(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("k", encoding="utf-8")
    (tmp_path / "own.py").write_text("import os\ndef run(params, session):\n    print(os.getcwd(), 'key.txt')\n", encoding="utf-8")
    places = {"PWD": str(tmp_path), "OLDPWD": str(tmp_path.parent), "SERVICE_API_KEY": str(tmp_path / "key.txt")}
    done = cli("script", "own.py", "--session", "s", env={**os.environ, **places})
    assert done.returncode == 0, done.stderr
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "runs/s").rglob("*") if path.is_file()]
    assert not any("<redacted>" in text for text in texts)
    assert f"{tmp_path} key.txt" in (tmp_path / "runs/s/pipeline.log").read_text()


def test_the_working_directory_is_no_secret(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os\ndef run(params, session):\n    raise ValueError(os.getcwd() + ' ' + os.environ['MY_TOKEN'])\n"
    )
    env = os.environ | {"PWD": str(tmp_path), "MY_TOKEN": "a-value-of-the-environment"}
    error = json.loads(cli("script", "own.py", "--session", "s", "--json", env=env).stdout)["error"]
    assert error["message"] == f"ValueError: {tmp_path} <redacted>"


@pytest.mark.parametrize("name", ["passwd", "my_token", "credentials"])
def test_the_place_of_an_error_in_a_file_is_no_secret(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nonsense")
    done = cli("prepare", tmp_path / name, "--model", "builtin:tiny")
    assert f"{name}: line 1, column 1" in done.stderr and "<redacted>" not in done.stderr, done.stderr
