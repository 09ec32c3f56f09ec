"""What the proof asks llama.cpp, in a process of its own: a damaged file may abort it.

This file is executed as it is, by the environment's Python, and imports nothing of this package. Standard input is a JSON object:
`file`, `conversations` to render and tokenize, `prompts` (lists of token ids) to continue greedily by at most `max_tokens` tokens, and
`context`. Standard output is a line `PROOF ` with a JSON object: `prompts`, the token ids of each conversation, and `answers`, each
with `tokens` and `ended`.
"""

import json
import os
import secrets
import sys
import urllib.request


def main():
    """Load the file, ask, print."""
    # Read by libgomp when it is loaded: waiting threads must not take the time of those that compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    asked = json.loads(sys.stdin.read())
    key = secrets.token_hex(16)
    common = xllamacpp.CommonParams()
    settings = {
        "n_ctx": asked["context"],
        "n_parallel": 1,
        "warmup": False,
        "fit_params": False,
        "use_jinja": True,
        "hostnames": ["127.0.0.1"],
        "port": 0,
        "api_keys": [key],
        "cors_origins": "",
    }
    for name, value in settings.items():
        if not hasattr(common, name):
            raise SystemExit(f"this xllamacpp has no parameter {name}")
        setattr(common, name, value)
    common.model.path = asked["file"]
    common.cpuparams.n_threads = max(1, min(8, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else 2
    server = xllamacpp.Server(common)

    def post(path, body):
        request = urllib.request.Request(
            server.listening_address + path,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
        with opener.open(request, timeout=600) as answer:
            return json.loads(answer.read())

    prompts = []
    for messages in asked["conversations"]:
        text = post("/apply-template", {"messages": messages})["prompt"]
        prompts.append(post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])

    answers = []
    for prompt in asked["prompts"]:
        body = {"prompt": prompt, "n_predict": asked["max_tokens"], "temperature": 0, "cache_prompt": False, "return_tokens": True}
        answer = post("/completion", body)
        answers.append({"tokens": answer["tokens"], "ended": answer.get("stop_type") == "eos"})
    print("PROOF " + json.dumps({"prompts": prompts, "answers": answers}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # the server's threads would keep the process
