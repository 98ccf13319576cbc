"""What a store keeps of a ledger, as it lies there: nothing of it is taken for whole, or for what a run has written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Optional

from pyspark.sql import DataFrame

from spark_billing.ledger.ledger import Ledger
from spark_billing.ledger.run_record import RunRecord
from spark_billing.ledger.summed_runs import SummedRuns


class Kept(ABC):
    """A ledger as its store keeps it."""

    where: str  # as a person names it

    @abstractmethod
    def records(self) -> Sequence[tuple[int, str, str]]:
        """The number of each run in order, where its record is, and the record's text."""

    @abstractmethod
    def checkpoints(self) -> Sequence[tuple[int, str]]:
        """The number of each checkpoint in order, and where it is."""

    @abstractmethod
    def checkpoint(self, number: int) -> Optional[SummedRuns]:
        """One of them; None if it is not whole."""

    @abstractmethod
    def ledger(self, runs: SummedRuns, last: Optional[RunRecord]) -> Ledger:
        """The ledger of some runs, whatever is wrong with it."""

    @abstractmethod
    def published(self) -> Mapping[str, Sequence[str]]:
        """The UTC+8 dates that `bill_lines` and `bills` have; no table where they are views of the ledger."""

    @abstractmethod
    def of_dates(self, table: str, dates: Sequence[str], tags: Sequence[str]) -> DataFrame:
        """The rows of such a table on some of these dates."""

    @abstractmethod
    def seen_runs(self) -> Sequence[str]:
        """The runs whose rows who reads the store itself would see, whether a record speaks of them or not."""

    @abstractmethod
    def untold(self, runs: SummedRuns) -> Sequence[str]:
        """What lies there that no record of the runs speaks of, and that no reader reads."""
