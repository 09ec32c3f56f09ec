"""The command and function `serve`, asked by the `openai` client: answers are those of `inference`, and its guards hold."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from fixtures import write

import pyrust_nn
from pyrust_nn import BusyError, ModelError, UsageError

KEY = "key-of-the-tests-0123"
QUESTION = "What is a session?"
LONG = "tell me a long story"


@pytest.fixture(scope="module")
def made(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder with the session `m`: the trained model in GGUF (`gguf`), two adapters on it with answers of their own (`one` and
    `two`), and noise (`noise`)."""
    runs = tmp_path_factory.mktemp("serve")
    pyrust_nn.convert_model_to_gguf("m", trained["full"], step="gguf", outtype=["f16", "q8_0"], verify=False, runs_dir=runs)
    pyrust_nn.convert_model_to_gguf("m", "builtin:tiny", step="noise", outtype="f16", verify=False, runs_dir=runs)
    for name, answer in (("one", "The first adapter says this."), ("two", "Quite another one answers.")):
        data = write(runs / f"{name}.json", [(QUESTION, answer), ("Hello", answer)])
        lora: dict[str, Any] = {"num_epochs": 30, "learning_rate": 5e-3, "lora_rank": 8, "step": f"lora-{name}", "runs_dir": runs}
        pyrust_nn.finetune_lora("m", trained["full"], dataset_path=data, **lora)
        pyrust_nn.convert_lora_to_gguf("m", f"m/lora-{name}", step=name, outtype="f32", verify=False, runs_dir=runs)
    return runs


class Served:
    """A server of the binary."""

    def __init__(self, binary: Path, runs: Path, *words: str | Path, **environment: str) -> None:
        command = [binary, "serve", "--port", "0", "--json", "--runs-dir", runs, *words]
        env = {name: value for name, value in os.environ.items() if name != "PYRUST_NN_API_KEY"} | environment
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (a pipe that nobody reads would stop the server)
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=self.errors, text=True, env=env)
        assert self.process.stdout
        text = ""
        while line := self.process.stdout.readline():
            text += line
            if line == "}\n":
                break
        else:
            self.errors.seek(0)
            raise AssertionError(self.errors.read())
        self.about: dict[str, Any] = json.loads(text)
        assert "error" not in self.about, self.about
        self.url: str = self.about["url"]
        self.host = self.url.removeprefix("http://")
        self.folder = runs / self.about["session"]
        self.key = environment.get("PYRUST_NN_API_KEY", "none")

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    @property
    def log(self) -> str:
        return (self.folder / "pipeline.log").read_text()

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / self.about["step"] / "summary.json").read_text())
        return summary

    def until(self, words: str) -> None:
        """Wait until the log has these words."""
        end = time.monotonic() + 60
        while words not in self.log:
            assert time.monotonic() < end, self.log
            time.sleep(0.02)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """A request without the client: status, and JSON or text."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"} | headers
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), sent)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if "json" in response.headers["Content-Type"] else text

    def children(self) -> list[int]:
        """The processes of llama.cpp."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())

    def hold(self) -> socket.socket:
        """A request in flight: its body is not complete."""
        host, _, port = self.host.rpartition(":")
        held = socket.create_connection((host, int(port)))
        head = f"POST /tokenize HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.key}\r\n"
        held.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 15\r\n\r\n".encode())
        assert held.recv(1 << 16).startswith(b"HTTP/1.1 100"), "its body is waited for"
        held.sendall(b'{"content"')
        return held


@pytest.fixture(scope="module")
def server(made: Path, binary: Path) -> Iterator[Served]:
    """Two models, and two adapters on the first, with a key."""
    words = ["-m", "base=m/gguf", "-m", "m/noise", "--adapter", "one=m/one", "--adapter", "m/two", "--parallel", "2", "--session", "shared"]
    with Served(binary, made, *words, PYRUST_NN_API_KEY=KEY) as served:
        yield served


def by_inference(runs: Path, model: str | Path, prompts: list[str], **params: Any) -> list[str]:
    given: dict[str, Any] = {"overwrite": True, "runs_dir": runs, "temperature": 0.0, "max_new_tokens": 64, **params}
    return [answer["text"] for answer in pyrust_nn.inference("i", model, prompt=prompts, **given)["result"]]


def ask(client: openai.OpenAI, model: str, prompt: str, **more: Any) -> str:
    asked: Any = {"max_tokens": 64, "temperature": 0, **more}
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **asked)
    return answer.choices[0].message.content or ""


def ask_streamed(client: openai.OpenAI, model: str, prompt: str, **more: Any) -> str:
    asked: Any = {"max_tokens": 64, "temperature": 0, **more}
    parts = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], stream=True, **asked)
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


# Answers


def test_whole_and_streamed_answers_are_those_of_inference(server: Served, made: Path, conversations: list[list[dict[str, str]]]) -> None:
    prompts = [messages[0]["content"] for messages in conversations[:12] if messages[0]["role"] == "user"]
    wanted = by_inference(made, "m/gguf", prompts)
    client = server.client
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda prompt: ask(client, "base", prompt), prompts)) == wanted
        assert list(pool.map(lambda prompt: ask_streamed(client, "base", prompt), prompts)) == wanted
    assert len(set(wanted)) > 5


def test_the_model_of_a_request_answers(server: Served, made: Path) -> None:
    (wanted,) = by_inference(made, "m/noise", [QUESTION], max_new_tokens=20)
    answer = server.client.completions.create(model="m/noise", prompt="x", max_tokens=1)
    assert answer.model == "m/noise"
    assert ask(server.client, "m/noise", QUESTION, max_tokens=20) == wanted != ask(server.client, "base", QUESTION, max_tokens=20)


def test_the_adapter_of_a_request_answers_whatever_was_asked_before(server: Served, made: Path) -> None:
    adapters: dict[str, dict[str, Any]] = {"base": {}, "one": {"adapter": "m/one"}, "m/two": {"adapter": "m/two"}}
    wanted = {name: by_inference(made, "m/gguf", [QUESTION], **given)[0] for name, given in adapters.items()}
    assert len(set(wanted.values())) == 3 and wanted["one"] == "The first adapter says this."
    client = server.client
    # The same prompt each time, so that what another computed could be taken for it.
    order = ["base", "one", "base", "m/two", "one", "one", "m/two", "base"]
    assert [ask(client, name, QUESTION) for name in order] == [wanted[name] for name in order]
    with ThreadPoolExecutor(8) as pool:
        asked = order * 4
        assert list(pool.map(lambda name: ask_streamed(client, name, QUESTION), asked)) == [wanted[name] for name in asked]
    # Several answers to a request take other slots with them.
    asked_twice: Any = {"n": 2, "temperature": 0, "max_tokens": 64}
    twice = client.chat.completions.create(model="one", messages=[{"role": "user", "content": QUESTION}], **asked_twice)
    assert [choice.message.content for choice in twice.choices] == [wanted["one"]] * 2
    assert [ask(client, name, QUESTION) for name in order] == [wanted[name] for name in order]


@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/v1/responses"])
def test_every_way_of_asking_gets_the_adapter(server: Served, path: str) -> None:
    template = {"messages": [{"role": "user", "content": QUESTION}], "model": "one"}
    prompt = server.request("POST", "/apply-template", template)[1]["prompt"]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": prompt, "max_tokens": 40},
        "/completion": {"prompt": prompt, "n_predict": 40},
        "/v1/responses": {"input": QUESTION, "max_output_tokens": 40},
    }
    for _ in range(2):
        texts = {}
        for model in ("base", "one", "m/two"):
            status, answer = server.request("POST", path, {"model": model, "temperature": 0, **bodies[path]})
            assert status == 200, answer
            texts[model] = json.dumps(answer)
        assert "The first adapter says this." in texts["one"] and "Quite another one answers." in texts["m/two"]
        assert "adapter says" not in texts["base"] and "another one" not in texts["base"]


def test_a_way_of_asking_that_forgets_the_adapter_is_for_models_without_one(server: Served) -> None:
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 5}
    for model in ("base", "one"):
        status, answer = server.request("POST", "/v1/messages", {"model": model, **asked})
        assert status == 400 and "/v1/messages works for models without adapters only" in answer["error"]["message"]
    status, answer = server.request("POST", "/v1/messages", {"model": "m/noise", **asked}, **{"x-api-key": KEY, "Authorization": ""})
    assert (status, answer["type"], answer["usage"]["output_tokens"]) == (200, "message", 5)


def test_many_clients_at_once_get_their_answers_though_others_break_off(server: Served, conversations: list[list[dict[str, str]]]) -> None:
    prompts = [messages[0]["content"] for messages in conversations[:10] if messages[0]["role"] == "user"]
    client = server.client
    wanted = {prompt: ask(client, "base", prompt) for prompt in prompts}

    def one(number: int) -> bool:
        prompt = prompts[number % len(prompts)]
        if number % 3:
            return ask(client, "base", prompt) == wanted[prompt]
        asked: Any = {"model": "base", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": number % 2 == 0}
        connection = http.client.HTTPConnection(server.host, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Authorization": f"Bearer {KEY}"})
        if asked["stream"]:
            connection.getresponse().readline()
        connection.close()
        return True

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(200)))
    assert [ask(client, "base", prompt) for prompt in prompts] == list(wanted.values())


def test_json_schema_and_llama_cpps_own_fields_pass_through(server: Served) -> None:
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert json.loads(ask(server.client, "m/noise", QUESTION, response_format=form))["answer"] in ("yes", "no")
    asked = {"model": "m/noise", "prompt": "x", "n_predict": 5, "ignore_eos": True, "n_probs": 2, "temperature": 0}
    status, answer = server.request("POST", "/completion", asked)
    assert (status, answer["tokens_predicted"], len(answer["completion_probabilities"])) == (200, 5, 5) and answer["timings"]
    status, tokens = server.request("POST", "/tokenize", {"model": "base", "content": "a b"})
    assert status == 200 and len(tokens["tokens"]) > 1
    status, text = server.request("POST", "/detokenize", {"model": "base", **tokens})
    assert (status, text["content"]) == (200, "a b")
    status, text = server.request("GET", "/metrics?model=m%2Fnoise")
    assert status == 200 and "tokens_predicted_total" in text


def test_the_list_of_models_names_session_and_step(server: Served) -> None:
    models = {model.id: model.model_dump() for model in server.client.models.list()}
    assert list(models) == ["base", "one", "m/two", "m/noise"]
    found = {name: (model["session"], model["step"], model["parent"]) for name, model in models.items()}
    assert found == {
        "base": ("m", "gguf", None),
        "one": ("m", "one", "base"),
        "m/two": ("m", "two", "base"),
        "m/noise": ("m", "noise", None),
    }
    assert server.client.models.retrieve("m/two").id == "m/two"
    assert [model["id"] for model in server.about["models"]] == list(models)


# What is refused


def test_what_is_wrong_is_refused_as_openai_does(server: Served) -> None:
    client = server.client
    with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
        ask(client.with_options(api_key="wrong"), "base", QUESTION)
    with pytest.raises(openai.NotFoundError, match=r"there is no model bass; did you mean base\?") as unknown:
        ask(client, "bass", QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="there is no model nothing"):
        client.models.retrieve("nothing")
    with pytest.raises(openai.BadRequestError, match="exceed") as too_long:
        ask(client, "base", "a b c " * 3000)
    assert too_long.value.type == "exceed_context_size_error", "llama.cpp's own answer"
    with pytest.raises(openai.BadRequestError, match="`lora` is set by the server here"):
        ask(client, "one", QUESTION, extra_body={"lora": []})
    assert server.request("POST", "/v1/chat/completions", b"{")[0] == 400
    for method, path in (("POST", "/lora-adapters"), ("GET", "/slots"), ("POST", "/props"), ("GET", "/cors-proxy"), ("GET", "/")):
        status, answer = server.request(method, path, {} if method == "POST" else None)
        assert (status, answer["error"]["code"]) == (404, "unknown_url"), path
    assert server.request("GET", "/v1/models", Authorization="")[0] == 401


def test_a_body_that_is_too_large_is_refused(server: Served) -> None:
    with pytest.raises(openai.APIStatusError, match="larger than 16 MiB") as refused:
        ask(server.client, "base", "a" * (17 << 20))
    assert refused.value.status_code == 413
    assert ask(server.client, "base", QUESTION, max_tokens=2)


def test_without_a_key_other_sites_and_names_are_refused(made: Path, binary: Path, cli: Callable[..., Any]) -> None:
    with Served(binary, made, "-m", "m/noise") as served:
        asked = {"model": "m/noise", "content": "a"}
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert served.request("POST", "/tokenize", asked, **headers)[0] == 403
        assert served.request("POST", "/tokenize", asked)[0] == 200
        status, answer = served.request("OPTIONS", "/tokenize", Origin="https://evil.example")
        assert status in (403, 404), answer
    with Served(binary, made, "-m", "m/noise", "--host", "0.0.0.0", PYRUST_NN_API_KEY=KEY) as served:
        served.host = served.host.replace("0.0.0.0", "127.0.0.1")
        assert served.request("POST", "/tokenize", asked, Host="some.name")[0] == 200, "the key allows it"
        assert served.request("POST", "/tokenize", asked, Authorization="Bearer x")[0] == 401
    before = sorted(made.iterdir())
    done = cli("serve", "-m", "m/noise", "--host", "0.0.0.0", "--runs-dir", made, "--session", "open")
    assert done.returncode == 2 and "a key is needed; set PYRUST_NN_API_KEY or --api-key" in done.stderr, done.stderr
    assert sorted(made.iterdir()) == before, "what is refused changes nothing"


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        ("nowhere.gguf", {}, ModelError, "there is no nowhere.gguf"),
        (["a=m/gguf", "a=m/noise"], {}, UsageError, "a stands for .* give them names"),
        ("m/gguf", {"parallel": 0}, UsageError, "parallel must be an integer from 1 to 64"),
        ("m/gguf", {"ctx_size": 10**6}, UsageError, "ctx_size is 1000000, and .* has 2048 positions"),
        ("m/gguf", {"host": "no.such.host.invalid"}, UsageError, "there is no address"),
        ("m/gguf", {"adapter": "m/noise"}, pyrust_nn.InputError, "is not a LoRA adapter in GGUF"),
    ],
)
def test_what_cannot_be_served_is_said(
    made: Path, model: Any, params: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        pyrust_nn.serve("refused", model, port=0, runs_dir=made, **params)


def test_what_is_not_in_gguf_is_converted_once_with_its_proof(made: Path, trained: dict[str, str], binary: Path, tmp_path: Path) -> None:
    """A model's folder, an adapter with its base as a model, and an adapter alone."""
    words = ["-m", f"full={trained['full']}", "-m", "tuned=m/lora-one", "--adapter", "one=m/lora-one", "--outtype", "f16"]
    answered = pyrust_nn.inference("m", trained["full"], prompt=QUESTION, temperature=0, step="folder", runs_dir=made)
    for before in ("", " before"):
        with Served(binary, made, *words, PYRUST_NN_CACHE=str(tmp_path / "cache")) as server:
            assert ask(server.client, "full", QUESTION) == answered["result"][0]["text"]
            for name in ("tuned", "one"):
                assert ask(server.client, name, QUESTION) == "The first adapter says this."
            assert [one["step"] for one in server.about["models"]][1:] == ["lora-one", "lora-one"]
            for name in ("full", "tuned", "one"):
                assert (f"{name} was converted to f16 before: " in server.log) == bool(before), server.log
    proofs = sorted((tmp_path / "cache/gguf").glob("*/served/convert/proof.json"))
    assert len(proofs) == 3 and all(file["passed"] for proof in proofs for file in json.loads(proof.read_text()))


def test_a_model_that_cannot_be_converted_is_not_served(
    made: Path, trained: dict[str, str], cli: Callable[..., Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained["full"], tmp_path / "cut"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = cli("serve", "-m", folder, "--session", "cut", "--port", "0", "--runs-dir", made)
    assert done.returncode == 1 and "model.safetensors is not a complete safetensors file" in done.stderr, done.stderr
    summary = json.loads((made / "cut/serve/summary.json").read_text())
    assert summary["status"] == "Failure" and "model.safetensors" in summary["error"]["message"]


def test_a_port_that_is_taken_is_said(server: Served, made: Path, cli: Callable[..., Any]) -> None:
    port = server.host.rpartition(":")[2]
    done = cli("serve", "-m", "m/noise", "--port", port, "--runs-dir", made, "--session", "taken")
    assert done.returncode == 2 and f"port {port} is taken by another program; give --port another" in done.stderr, done.stderr
    assert not (made / "taken").exists()


def test_the_key_is_nowhere(server: Served) -> None:
    assert ask(server.client, "base", QUESTION, max_tokens=2)
    for child in server.children():
        for name in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{child}/{name}").read_bytes()
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if KEY in path.read_text(errors="replace")]
    assert QUESTION not in server.log, "no contents"
    assert "POST /v1/chat/completions 200 base " in server.log and "+2 tokens" in server.log
    assert server.request("GET", "/health")[0] == 200
    server.until("[DEBUG] pyrust_nn::serve::server_log: GET /health 200")


# Its end, and that of others


def test_a_server_goes_on_in_the_background_until_it_is_stopped(made: Path, binary: Path, cli: Callable[..., Any], runs: Path) -> None:
    file = next((made / "m/gguf").glob("*.f16.gguf"))
    words = ["serve", "-m", f"base={file}", "--port", "0", "--session", "behind", "--api-key", KEY, "--runs-dir", runs]
    # The output of the command ends with the command: whoever reads it to its end does not wait for the server.
    started = cli(*words, "--detach", timeout=120)
    assert started.returncode == 0, started.stderr
    url = started.stdout.split()[0]
    try:
        client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)
        assert [ask(client, "base", QUESTION)] == by_inference(made, "m/gguf", [QUESTION])
        assert started.stdout.split("\n")[1:] == ["  base", "stop: pyrust-nn serve stop behind", ""]
        (server,) = (runs / "behind").glob("*/server.json")
        process = json.loads(server.read_text())["pid"]
        assert os.getsid(process) == process != os.getsid(0), "a closed terminal does not reach it"
        for file in [Path(f"/proc/{process}/cmdline"), *runs.joinpath("behind").rglob("*")]:
            assert file.is_dir() or KEY.encode() not in file.read_bytes(), file
        assert cli(*words, "--detach").returncode == 1, "the session is in use"

        held = socket.create_connection((url.split("/")[2].split(":")[0], int(url.split(":")[2].split("/")[0])))
        head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nExpect: 100-continue\r\n"
        held.sendall(f"{head}Content-Length: 15\r\n\r\n".encode())
        assert held.recv(1 << 16).startswith(b"HTTP/1.1 100")
        # It is the only one.
        stopping = subprocess.Popen([binary, "serve", "stop", "--runs-dir", runs], stdout=subprocess.PIPE, text=True)
        log = runs / "behind/pipeline.log"
        while "the server ends" not in log.read_text():
            time.sleep(0.02)
        assert stopping.poll() is None, "it waits for the answer in flight"
        held.sendall(b'{"content":"a"}')
        assert held.recv(1 << 16).startswith(b"HTTP/1.1 200")
        held.close()
        shown, _ = stopping.communicate(timeout=60)
        assert (stopping.returncode, shown) == (0, f"step serve of session behind no longer serves on {url.removesuffix('/v1')}\n")
    finally:
        cli("serve", "stop", "behind", "--runs-dir", runs)
    assert json.loads((runs / "behind/serve/summary.json").read_text())["status"] == "Success"


def test_what_stands_in_the_way_of_a_background_server_is_shown_by_its_command(made: Path, runs: Path, cli: Callable[..., Any]) -> None:
    done = cli("serve", "-m", "nowhere.gguf", "--detach", "--runs-dir", made)
    assert (done.returncode, done.stdout) == (1, "") and "there is no nowhere.gguf" in done.stderr
    done = cli("serve", "stop", "--runs-dir", runs)
    assert done.returncode == 2 and f"no session in {runs} serves" in " ".join(done.stderr.split()), done.stderr
    for session, words in (("m", "session m serves nothing, so there is nothing to stop"), ("none", "there is no session none")):
        done = cli("serve", "stop", session, "--runs-dir", made)
        assert done.returncode == 2 and words in done.stderr, done.stderr


def test_sigterm_ends_after_the_answers_in_flight(made: Path, binary: Path) -> None:
    with Served(binary, made, "-m", "m/noise", "--session", "drained") as served:
        client = served.client
        whole = ask(client, "m/noise", LONG, max_tokens=1500)
        asked: Any = {"max_tokens": 1500, "temperature": 0, "stream": True}
        parts = client.chat.completions.create(model="m/noise", messages=[{"role": "user", "content": LONG}], **asked)
        text = next(part.choices[0].delta.content or "" for part in parts)
        held = served.hold()
        served.process.send_signal(signal.SIGTERM)
        served.until("a second signal ends it at once")
        with pytest.raises(openai.InternalServerError, match="the server is about to end") as refused:
            ask(client, "m/noise", QUESTION)
        assert refused.value.status_code == 503
        text += "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text == whole and len(text) > 1000
        held.sendall(b':"a"}')
        assert held.recv(1 << 16).startswith(b"HTTP/1.1 200"), "it was in flight"
        assert served.process.wait(60) == 0
        summary = served.summary()
        assert summary["status"] == "Success"
        assert (summary["metrics"]["refused"], summary["metrics"]["completion_tokens"]) == (1, 3000)
        state = json.loads((served.folder / "session.json").read_text())
        assert state["state"] == "success" and state["invocations"][-1]["task"] == "serve"


def test_a_second_signal_ends_at_once(made: Path, binary: Path) -> None:
    with Served(binary, made, "-m", "m/noise", "--session", "stopped") as served:
        children = served.children()
        held = served.hold()
        served.process.send_signal(signal.SIGINT)
        served.until("a second signal ends it at once")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 143
        held.close()
        assert served.summary()["error"]["kind"] == "interrupted"
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_client_that_goes_away_cancels_its_request(made: Path, binary: Path) -> None:
    with Served(binary, made, "-m", "m/noise", "--parallel", "1", "--session", "cancelled") as served:
        prompts = [f"{number} is a number" for number in range(60)]
        asked = {"model": "m/noise", "prompt": prompts, "n_predict": 1900, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection(served.host, timeout=60)
        connection.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data:")
        assert connection.sock is None or connection.sock.shutdown(socket.SHUT_RDWR) is None
        response.close()
        connection.close()
        assert ask(served.client, "m/noise", QUESTION, max_tokens=4), "the only slot is free again"
        served.until("cancelled: the client went away")
        _, metrics = served.request("GET", "/metrics")
        (predicted,) = (float(line.split()[1]) for line in metrics.splitlines() if line.startswith("llamacpp:tokens_predicted_total"))
        assert predicted < 60 * 1900 / 2, "llama.cpp heard of it"


def test_a_killed_llama_cpp_is_started_once_again(made: Path, binary: Path) -> None:
    with Served(binary, made, "-m", "m/gguf", "--session", "killed") as served:
        whole = ask(served.client, "m/gguf", QUESTION)
        (child,) = served.children()
        os.kill(child, signal.SIGKILL)
        assert ask(served.client, "m/gguf", QUESTION) == whole, "asked while it was started again"
        served.until("m/gguf: llama.cpp ended (signal SIGKILL)")
        assert "it was started again" in served.log
        (child,) = served.children()
        os.kill(child, signal.SIGKILL)
        assert served.process.wait(60) == 1
        error = served.summary()["error"]
        assert error["kind"] == "model" and "restarted once before" in error["message"]
        assert served.summary()["metrics"]["restarts"] == 1


def test_a_broken_answer_is_not_taken_for_a_whole_one(made: Path, binary: Path) -> None:
    with Served(binary, made, "-m", "m/noise", "--session", "broken") as served:
        prompts = [f"{number} is a number" for number in range(60)]
        asked = {"prompt": prompts, "n_predict": 1900, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection(served.host, timeout=60)
        connection.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data:")
        os.kill(served.children()[0], signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        served.until("broken off: llama.cpp ended")


# In Python


def test_a_server_in_python_runs_beside_steps(made: Path) -> None:
    with pyrust_nn.serve("python", ["a=m/gguf"], port=0, api_key=KEY, runs_dir=made) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        answer = ask(client, "a", QUESTION)
        assert by_inference(made, "m/gguf", [QUESTION]) == [answer]
        assert [model["id"] for model in server.models] == ["a"] and (server.session, server.step) == ("python", "serve")
        with pytest.raises(BusyError, match="session python is in use"):
            pyrust_nn.serve("python", "m/gguf", port=0, runs_dir=made)
        with pytest.raises(openai.AuthenticationError):
            ask(openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0), "a", QUESTION)
    with pytest.raises(openai.APIConnectionError):
        ask(client, "a", QUESTION)
    summary = server.close()
    assert (summary["status"], summary["metrics"]["requests"], summary["params"]["api_key"]) == ("Success", 2, "<redacted>")
    again = pyrust_nn.serve("python", "m/gguf", port=0, runs_dir=made)
    assert again.step == "serve-2"
    again.close()
    log = (made / "python/pipeline.log").read_text()
    assert KEY not in log and "inference" not in log
    assert "serve-2" in (made / "python/report.html").read_text(), "the session's page has it"
    assert not [path for path in (made / "python").rglob("*") if path.is_file() and KEY in path.read_text(errors="replace")]
