"""Which files of the published tables are there, and which a run has published: files that differ are not its own.

Spark gives each file a name of its own whenever it writes, so names and sizes tell apart what one run has published and
what another has, what an older copy holds, and what is lost. Nothing is read for it. No Spark in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

FROM_LEDGER = ("bill_lines", "bills")  # the tables that can be rebuilt from the ledger
_DATE = "billing_date="

ByDate = Mapping[str, Mapping[str, int]]  # UTC+8 date -> files by their path below the output, each with its size


def digest_of(files: Mapping[str, int]) -> str:
    """What names some files with their sizes: short, as a checkpoint has one for each date."""
    text = "\n".join(f"{path} {size}" for path, size in sorted(files.items()))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def by_date(tables: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The files of some tables, each by its path in the table, by the date that they are of."""
    found: dict[str, dict[str, int]] = {}
    for table, files in tables.items():
        for path, size in files.items():
            folder, slash, _ = path.partition("/")
            if slash and folder.startswith(_DATE):
                found.setdefault(folder[len(_DATE) :], {})[f"{table}/{path}"] = size
    return found


def has_all_tables(files: Mapping[str, int]) -> bool:
    """Whether each table has some of these files."""
    return {path.partition("/")[0] for path in files} == {*FROM_LEDGER}
