"""Every fenced block of every Markdown file of the project, and which of them a test has claimed.

A test claims blocks at the head of its module, and then runs them, or compares them with what the code says. What no
module claims, test_blocks.py reports.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCED = re.compile(r"^( *)```(\w+)(?: (\w+))?\n(.*?)^\1```$", flags=re.M | re.S)


@dataclass(frozen=True)
class Block:
    file: str  # from the top of the project
    line: int
    language: str
    marker: str  # the word behind the language, such as in ```sql litellm
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block."""
        return [shlex.split(line) for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def documents() -> list[str]:
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))


def _blocks() -> Iterator[Block]:
    for file in documents():
        text = text_of(file)
        for found in _FENCED.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(file, line, found[2], found[3] or "", found[4])


BLOCKS = tuple(_blocks())
CLAIMED: set[Block] = set()


def claim(file: str, language: str, marker: str = "") -> list[Block]:
    """The blocks of a file that have this language and marker, in order: whoever asks for them tests them."""
    found = [block for block in BLOCKS if (block.file, block.language, block.marker) == (file, language, marker)]
    assert found, f"{file} has no block ```{language} {marker}"
    CLAIMED.update(found)
    return found
