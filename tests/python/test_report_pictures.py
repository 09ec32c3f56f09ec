"""The pictures of a report alone, for a paper: as SVG, and as PNG without any font of the system."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_report import EVIL, summary, write_metrics, write_session

Cli = Callable[..., subprocess.CompletedProcess[str]]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def session(runs: Path) -> Path:
    """Two steps, of which one has curves and the lengths of its rows."""
    tune = summary("finetune_full", "tune", outputs={"model": "tune/model"})
    folder = write_session(runs, [tune, summary("inference", "ask", params={"model": "@tune"})])
    write_metrics(folder / "tune", ({"step": i * 12_500, "loss": 1 / i, "eval_loss": 2 / i, "../<b>": i} for i in range(1, 9)))
    lengths = {"histogram": [{"from": 1, "to": 9, "rows": 3}, {"from": 10, "to": 19, "rows": 0}, {"from": 20, "to": 29, "rows": 1}]}
    (folder / "tune/data_report.json").write_text(json.dumps({"lengths": lengths}))
    return runs


# The bytes of a picture's pixels, as Chromium decodes it.
DECODED = """async (source) => {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext('2d').drawImage(image, 0, 0);
  const bytes = canvas.getContext('2d').getImageData(0, 0, image.width, image.height).data;
  let text = '';
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return [image.width, image.height, btoa(text)];
}"""


def pixels(browser: Any, path: Path) -> np.ndarray:
    """The red, green and blue of a PNG file: height x width x 3."""
    page = browser.new_page()
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    width, height, text = page.evaluate(DECODED, source)
    page.close()
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]


def test_svg_files_stand_alone(cli: Cli, session: Path, tmp_path: Path) -> None:
    target = tmp_path / "pictures"
    done = cli("report", "s", "--runs-dir", session, "--svg", target)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["steps.svg", "tune.____b_.svg", "tune.loss.svg", "tune.row_lengths.svg"]
    picture = ElementTree.parse(target / "tune.loss.svg").getroot()
    assert picture.tag == f"{SVG}svg"
    drawn = [one.get("class") for one in picture if (one.get("class") or "").startswith("line")]
    assert drawn == ["line s0", "line s1"] * 2, "the lines, and those of the legend"
    texts = [one.text for one in picture.iter(f"{SVG}text")]
    assert {"loss", "eval_loss", "step", "100,000"} <= set(texts), "it says itself what it shows"
    names = [one.text for one in ElementTree.parse(target / "steps.svg").getroot().iter(f"{SVG}text")]
    assert names == ["tune: success", "ask: success"]


def test_png_files_need_no_font(cli: Cli, browser: Any, session: Path, tmp_path: Path) -> None:
    target = tmp_path / "pictures"
    # fontconfig, by which programs find the system's fonts, finds none.
    (tmp_path / "fonts.conf").write_text("<fontconfig/>")
    bare = os.environ | {"FONTCONFIG_FILE": str(tmp_path / "fonts.conf"), "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    done = cli("report", "s", "--runs-dir", session, "--png", target, "--json", env=bare)
    assert done.returncode == 0 and not done.stderr, done.stderr
    written = sorted(path.name for path in target.iterdir())
    assert written == ["steps.png", "tune.____b_.png", "tune.loss.png", "tune.row_lengths.png"]
    assert sorted(json.loads(done.stdout)["pictures"]) == [str(target / name) for name in written]
    picture = pixels(browser, target / "tune.loss.png")
    assert picture.shape == (1384, 2560, 3)
    assert tuple(picture[0, 0]) == (255, 255, 255)
    for line in ((0x1F, 0x66, 0xB5), (0xC2, 0x57, 0x0C)):
        assert (picture == line).all(axis=2).sum() > 1000, "both lines in their colours"
    dark = picture.max(axis=2) < 110
    # In units of the drawing, of which one is 4 pixels: the legend is above 26, the numbers of the axes are left of 55 and below 324.
    assert dark[16:80, 380:520].sum() > 300, "the legend's letters"
    assert dark[120:1280, :220].sum() > 300, "the numbers of the vertical axis"
    assert dark[1310:1390, 250:].sum() > 300, "the numbers of the horizontal axis"
    assert not dark[:, -4:].any() and not dark[-4:].any(), "none is cut off at the edge"


def test_a_name_that_the_font_lacks_is_refused_before_anything_is_written(cli: Cli, session: Path, tmp_path: Path) -> None:
    write_metrics(session / "s/tune", iter([{"step": 1, "loss": 1.0, "損失": 2.0}]))
    done = cli("report", "s", "--runs-dir", session, "--png", tmp_path / "png")
    assert done.returncode == 2 and "has no character '損'" in done.stderr and "--svg" in done.stderr
    assert not (tmp_path / "png").exists()
    done = cli("report", "s", "--runs-dir", session, "--svg", tmp_path / "svg")
    assert done.returncode == 0 and "損失" in (tmp_path / "svg/tune.__.svg").read_text(encoding="utf-8")


def test_names_are_no_markup(cli: Cli, session: Path, tmp_path: Path) -> None:
    write_metrics(session / "s/tune", iter([{"step": 1, "loss": 1.0, EVIL[:59]: 2.0}]))
    done = cli("report", "s", "--runs-dir", session, "--svg", tmp_path, "--png", tmp_path)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.glob("*.svg"):
        tags: set[Any] = {one.tag.removeprefix(SVG) for one in ElementTree.parse(path).iter()}
        assert tags <= {"svg", "style", "path", "text", "circle", "rect", "title"}
