"""What all jobs share: how arguments are read, and how every failure becomes one line and an exit code."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, Optional

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from spark_billing.core.errors import (
    LostRaceError,
    OutputError,
    PriceListError,
    ProviderBillError,
    RejectedError,
    RetractionError,
    SparkBillingError,
    UsageError,
)
from spark_billing.core.session import tell_of_tasks
from spark_billing.core.spark_errors import spark_reason, storage_trouble, users_error, whole_text
from spark_billing.core.version import __version__

DONE = 0
FAILED = 1  # nothing half-written is ever taken for a bill
REFUSED = 2  # arguments, price list, usage: nothing was written
UNEXPLAINED = 3  # a comparison left a difference without a cause
RETRACTION = 4  # it would lower bills, and may not
LOST_RACE = 5  # another run committed first
REJECTED = 6  # done and committed, but more was rejected than may be


@dataclass(frozen=True)
class Command:
    """A subcommand of `spark-billing`, and a file in jobs/ if it runs on Spark. Called with arguments, it returns its
    exit code."""

    name: str  # of the subcommand
    job: Optional[str]  # its file in jobs/; None: it needs no Spark, so nobody submits it
    description: str
    examples: str  # with other things that --help ends with; {prog} is what the user calls
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.ArgumentParser, argparse.Namespace], int]
    cannot: str = "the job cannot be done"  # what is said before an error of Spark's that is the user's

    def __call__(self, argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
        own = f"jobs/{self.job}" if self.job else f"spark-billing {self.name}"
        prog, call = (self.job or own, own) if prog is None else (prog, prog)
        parser = _Parser(
            prog=prog,
            description=self.description,
            epilog=self.examples.replace("{prog}", call),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_version(parser)
        self.add_arguments(parser)
        arguments = parser.parse_args(argv)
        return _guarded(parser, self.cannot, lambda: self.run(parser, arguments))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"{self.prog}: {message} (see --help)\n")


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"spark-billing {__version__}")


def _guarded(parser: argparse.ArgumentParser, cannot: str, run: Callable[[], int]) -> int:
    """What a job does, with every failure as one line and an exit code; only what is nobody's fault in front of the
    terminal is told at length."""
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):  # PySpark's stack trace before our one line
        logging.getLogger(name).disabled = True
    _any_text_can_be_printed()
    try:
        return run()
    except (PriceListError, ProviderBillError, UsageError, OutputError) as error:
        return _fail(parser, error, REFUSED)
    except RetractionError as error:
        return _fail(parser, error, RETRACTION)
    except LostRaceError as error:
        return _fail(parser, error, LOST_RACE)
    except RejectedError as error:
        return _fail(parser, error, REJECTED)
    except SparkBillingError as error:
        return _fail(parser, error, FAILED)
    except (PySparkException, Py4JJavaError, OSError) as error:
        reason, trouble = None if isinstance(error, OSError) else users_error(error), storage_trouble(error)
        if reason:
            return _fail(parser, f"{cannot}: {reason}", REFUSED)
        if trouble or isinstance(error, OSError):
            return _fail(parser, trouble or error, FAILED)
        _fail(parser, f"Spark failed: {spark_reason(error)}", FAILED)
        print(whole_text(error), file=sys.stderr)  # for whoever has to find out why: its log has not told
        return FAILED
    finally:
        tell_of_tasks()


def say(text: str) -> None:
    """Text on the standard output."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # nobody reads it (`| head`): what the job did is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(parser: argparse.ArgumentParser, error: object, code: int) -> int:
    option = _option(parser, getattr(error, "parameter", None))
    print(f"{parser.prog}: {' '.join(str(error).split())}{f' ({option})' if option else ''}", file=sys.stderr)
    return code


# Parameters of the library whose option has another name
_OPTIONS = {
    "columns": "--column",
    "duplicates": "--no-dedup",
    "group_by_tags": "--group-by-tag",
    "period": "--from, --to",
}


def _option(parser: argparse.ArgumentParser, parameter: Optional[str]) -> Optional[str]:
    """The option of the job that sets a parameter of the library, if it has one; errors name what mends them."""
    if parameter is None:
        return None
    option = _OPTIONS.get(parameter, f"--{parameter.replace('_', '-')}")
    known = {
        name for each in _with_those_of_actions(parser) for action in each._actions for name in action.option_strings
    }
    return option if set(option.split(", ")) <= known else None


def _with_those_of_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _any_text_can_be_printed() -> None:
    """A name that the terminal's encoding lacks must not end a run that is already committed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
