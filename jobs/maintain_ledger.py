"""Keep a ledger in order: verify it, compact it. Run by spark-submit, or on a laptop; see --help."""

import sys
from pathlib import Path

try:
    from spark_billing.commands.maintain_ledger import maintain_ledger
except ModuleNotFoundError as error:  # run from a checkout, without --py-files and not installed
    if error.name != "spark_billing":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from spark_billing.commands.maintain_ledger import maintain_ledger

if __name__ == "__main__":
    raise SystemExit(maintain_ledger())
