"""The shape of the documents: what is short stays short, links lead somewhere, and no block is without a test."""

import importlib
import re

import pytest

from spark_billing.commands.cli import COMMANDS
from spark_billing.commands.command import with_those_of_actions
from tests.docs.blocks import BLOCKS, CLAIMED, ROOT, documents, text_of
from tests.docs.commands import parser_of

OF_JOBS = ("README.md", "jobs/README.md", "jobs/catalogs.md", "jobs/usage_sources.md")
OTHER_TOOLS = {"--help", "--py-files", "--conf", "--wheel"}


def test_the_readme_is_a_door():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120
    assert "```sh" in lines[:21]


def test_every_fence_is_seen():
    """A block that the pattern misses would be tested by nobody."""
    for file in documents():
        fences = re.findall(r"^ *```", text_of(file), flags=re.M)
        assert len(fences) == 2 * sum(block.file == file for block in BLOCKS), file


def test_every_block_is_claimed_by_a_test():
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "tests.docs.blocks" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    unclaimed = [f"{block.file}:{block.line}" for block in BLOCKS if block not in CLAIMED]
    assert not unclaimed


def prose(file):
    return re.sub(r"^ *```.*?^ *```$", "", text_of(file), flags=re.M | re.S)


def anchors(file):
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", prose(file), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", documents())
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)]+)\)", prose(file)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = ((ROOT / file).parent / path).resolve() if path else ROOT / file
        assert there.exists(), target
        assert not anchor or anchor in anchors(str(there.relative_to(ROOT))), target


def test_every_argument_that_is_named_exists():
    known = OTHER_TOOLS.union(
        *(parser._option_string_actions for command in COMMANDS for parser in with_those_of_actions(parser_of(command)))
    )
    for file in (*OF_JOBS, "spark_billing/prices/lists/README.md"):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose(file)))
        assert named <= known, file
