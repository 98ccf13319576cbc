"""Compare what was billed with the provider's bill. Run by spark-submit, or on a laptop; see --help."""

import sys
from pathlib import Path

try:
    from spark_billing.commands.reconcile_bill import reconcile_bill
except ModuleNotFoundError as error:  # run from a checkout, without --py-files and not installed
    if error.name != "spark_billing":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from spark_billing.commands.reconcile_bill import reconcile_bill

if __name__ == "__main__":
    raise SystemExit(reconcile_bill())
