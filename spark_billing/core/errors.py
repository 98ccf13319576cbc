"""The errors a user of this package can meet, and what Spark's own say: what was found, what was needed, what to do."""

from __future__ import annotations

import re
from typing import Optional


class SparkBillingError(Exception):
    """Root of every error that this package raises on purpose.

    `parameter` names the one that mends it, if there is one: a job tells its users the option that sets it.
    """

    def __init__(self, message: str, *, parameter: Optional[str] = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class PriceListError(SparkBillingError, ValueError):
    """A price list was refused: the message names the line and the reason."""


class UsageError(SparkBillingError, ValueError):
    """A usage table, its columns or the way to read it does not fit the contract."""


class ProviderBillError(SparkBillingError, ValueError):
    """A provider's bill, or the mapping that says how to read it, does not fit."""


class OutputError(SparkBillingError, ValueError):
    """The output folder holds something that this run must not touch."""


class TotalsError(SparkBillingError, RuntimeError):
    """The control totals of a run do not balance; nothing of the run was published."""


class RetractionError(SparkBillingError, RuntimeError):
    """A run would lower what is billed and was not allowed to; nothing of it was published."""


class LostRaceError(SparkBillingError, RuntimeError):
    """Another run committed to the same output first; nothing of this run was published."""


# What a run can meet in the rows of a usage table or in the user's own expressions (Spark's error conditions)
_USERS_ERRORS = re.compile(
    r"\[((?:CAST_|DIVIDE_BY_ZERO|ARITHMETIC_OVERFLOW|INTERVAL_|INVALID_|CANNOT_PARSE|NUMERIC_VALUE|FAILED_READ_FILE|"
    r"MALFORMED_|UNRESOLVED_|DATATYPE_MISMATCH|PARSE_SYNTAX|PATH_NOT_FOUND|TABLE_OR_VIEW_NOT_FOUND|UNABLE_TO_INFER|"
    r"MAP_KEY_|NULL_MAP_KEY|REMAINDER_BY_ZERO|BINARY_ARITHMETIC_|INCONSISTENT_BEHAVIOR|CANNOT_DECODE|DATETIME_|UNSUPPORTED_|AMBIGUOUS_|COLUMN_ALREADY_EXISTS|WRONG_NUM_ARGS)[A-Z_0-9.]*)\]\s*([^\n]*)"
)

# Spark 3.5 has no condition for a file that it cannot read
_UNREADABLE_FILE = re.compile(
    r"(?:Encountered error while reading file|Parquet column cannot be converted in file|CSV header does not conform|"
    r"\S+ is not a Parquet file|Malformed ORC file|Not a valid ORC file|"
    r"Unexpected end of input stream|Unescaped quote character|Unexpected character '.' following quoted value)[^\n]*"
)


def users_error(error: Exception) -> Optional[str]:
    """What Spark says of a usage table or a user's expression, in a line; None if the failure is of another kind."""
    causes = _USERS_ERRORS.findall(str(error))
    if not causes:
        unreadable = _UNREADABLE_FILE.search(str(error))
        return f"FAILED_READ_FILE: {unreadable[0].strip()}" if unreadable else None
    condition, text = causes[-1]  # the innermost cause
    return f"{condition}: {text.strip()}"


def spark_reason(error: Exception) -> str:
    """A Spark error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("An error occurred while calling")]  # py4j's own words
    return users_error(error) or next(iter(told), repr(error))
