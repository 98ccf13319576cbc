"""The errors a user of this package can meet: what was found, what was needed, what to do."""

from __future__ import annotations

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


class StorageError(SparkBillingError, RuntimeError):
    """A storage did not do what it was asked, and said so or not."""


class BehindError(SparkBillingError, RuntimeError):
    """A run is committed, but not all that is published from it is in place yet; the next run sees to that."""


class RejectedError(SparkBillingError, RuntimeError):
    """A run is done and committed, but rejected more rows than it was to."""
