"""Makes the pictures of a report and of the board in README and docs: `python docs/pictures.py BINARY`, or `make pictures`.

Trains some small adapters on the sample data (a minute on two cores), starts the board on them, and has Chromium take the pictures.
Needs Chromium, and playwright from the development dependencies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = CHECKOUT / "data.json"
# Name, learning rate, rank, epochs.
SESSIONS = [("rank-4", 1e-3, 4, 6), ("rank-16", 1e-3, 16, 6), ("fast", 1e-2, 8, 12), ("support-bot", 3e-3, 8, 20)]


def main() -> None:
    """Train, start, photograph."""
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "target/release/pyrust-nn").resolve()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed")
    with TemporaryDirectory() as folder:

        def call(*words: str | Path) -> subprocess.Popen[str]:
            # At home, as a user would: the pictures show `~/runs`, not where it is here. The environment is the checkout's.
            home = {**os.environ, "HOME": folder, "PYRUST_NN_PYTHON_ENV": sys.prefix}
            return subprocess.Popen([binary, *words], cwd=folder, env=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

        def tune(session: str, rate: float, rank: int, epochs: int, *more: str) -> subprocess.Popen[str]:
            settings = ["--learning-rate", str(rate), "--lora-rank", str(rank), "--num-epochs", str(epochs), "--logging-steps", "1"]
            data = ["data.json", "-m", "builtin:tiny", "--session", session]
            data += ["--eval-split", "0.2", "--eval-steps", "10", "--batch-size", "2"]
            return call("finetune-lora", *data, *settings, *more)

        shutil.copy(DATA, folder)
        for session, *settings in SESSIONS:
            tune(session, *settings).wait()
        call("merge", "support-bot/finetune_lora", "--session", "support-bot").wait()
        call("convert-model-to-gguf", "support-bot/merge", "--session", "support-bot").wait()
        tune("too-fast", 10.0, 8, 60, "--max-grad-norm", "0", "--weight-decay", "10").wait()  # its weights become infinite
        running = tune("next-one", 1e-4, 8, 100)
        board = call("board", "--allow-control")
        assert board.stdout is not None
        url = board.stdout.readline().strip()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 560}, device_scale_factor=1.5)
            page.goto(url)
            page.locator("#row-next-one progress").wait_for(timeout=120_000)
            time.sleep(10)  # the remaining time is known
            page.screenshot(path=CHECKOUT / "docs/board.png")
            page.set_viewport_size({"width": 1100, "height": 1250})
            page.goto((Path(folder) / "runs/support-bot/report.html").as_uri())
            page.screenshot(path=CHECKOUT / "docs/report.png")
            browser.close()
        for process in (running, board):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
