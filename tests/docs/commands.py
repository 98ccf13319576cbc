"""The commands that the documents show, as the jobs read them."""

import argparse

from spark_billing.commands.cli import COMMANDS
from tests.docs.blocks import Block

BY_JOB = {command.job: command for command in COMMANDS if command.job}


def parser_of(command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    command.add_arguments(parser)
    return parser


def options_of(command) -> set[str]:
    """The options of a command, with those of its actions if it has any."""
    parsers = [parser_of(command)]
    actions = [found for found in parsers[0]._actions if isinstance(found, argparse._SubParsersAction)]
    parsers += [parser for found in actions for parser in found.choices.values()]
    return {option for parser in parsers for option in parser._option_string_actions}


def job_of(words):
    """The command behind `uv run jobs/X.py ...` or `spark-submit ... jobs/X.py ...`, and its arguments."""
    (place,) = [number for number, word in enumerate(words) if word.startswith("jobs/")]
    before = ["uv", "run"], ["spark-submit", "--py-files", "spark_billing.zip"]
    assert words[:place] in before, words
    return BY_JOB[words[place].removeprefix("jobs/")], words[place + 1 :]


def run_job(block: Block, **paths: str) -> int:
    """The block's one job with other paths: each word that is a name of `paths`, or begins with it and a slash."""
    (words,) = block.commands
    command, arguments = job_of(words)

    def moved(word: str) -> str:
        head, slash, rest = word.partition("/")
        return f"{paths[head]}{slash}{rest}" if head in paths else word

    return command([moved(word) for word in arguments])
