"""Write what was billed as a page to look at. Run by spark-submit, or on a laptop; see --help."""

import sys
from pathlib import Path

try:
    from spark_billing.commands.report import report
except ModuleNotFoundError as error:  # run from a checkout, without --py-files and not installed
    if error.name != "spark_billing":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from spark_billing.commands.report import report

if __name__ == "__main__":
    raise SystemExit(report())
