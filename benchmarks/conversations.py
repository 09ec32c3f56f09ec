"""Conversations for benchmarks: seeded slices of the text and code of Python's own standard library, and some in other scripts.

python benchmarks/conversations.py 20000 conversations.json
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OTHER_SCRIPTS = (
    "北京是中华人民共和国的首都，也是全国的政治中心和文化中心。",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Voilà l'été: les élèves dînent à l'hôtel près du château.",
    "東京は日本の首都であり、世界最大の都市圏の一つです。",
    "🙂 Thanks! 👩‍👩‍👧‍👦 See you → tomorrow… ½ price, 20 °C.",
)


def paragraphs() -> list[str]:
    """Lines of the standard library's sources, in the order of the files' names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    lines: list[str] = []
    for path in sorted(folder.glob("*.py")):
        lines += [line for line in path.read_text(encoding="utf-8").splitlines() if len(line.strip()) > 20]
    return lines


def conversations(count: int, seed: int = 0) -> Iterator[dict[str, list[dict[str, str]]]]:
    """`count` conversations of one to three questions and answers, some 1,050 bytes each."""
    lines = paragraphs()
    draw = random.Random(seed)
    for _ in range(count):
        messages = []
        if draw.random() < 0.3:
            messages.append({"role": "system", "content": "You are a careful assistant. Answer in plain words."})
        for _ in range(draw.choice((1, 1, 2, 3))):
            for role, most in (("user", 4), ("assistant", 14)):
                start = draw.randrange(len(lines) - most)
                part = lines[start : start + draw.randint(1, most)]
                if draw.random() < 0.1:
                    part.append(draw.choice(OTHER_SCRIPTS))
                messages.append({"role": role, "content": "\n".join(part)})
        yield {"messages": messages}


def write(count: int, path: Path, seed: int = 0) -> Path:
    """A JSON list of them, one a line."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for number, conversation in enumerate(conversations(count, seed)):
            file.write((",\n" if number else "") + json.dumps(conversation, ensure_ascii=False))
        file.write("\n]\n")
    return path


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
