"""Say what a table of prompts would cost. Run by spark-submit, or on a laptop; see --help."""

import sys
from pathlib import Path

try:
    from spark_billing.commands.estimate_cost import estimate_cost
except ModuleNotFoundError as error:  # run from a checkout, without --py-files and not installed
    if error.name != "spark_billing":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from spark_billing.commands.estimate_cost import estimate_cost

if __name__ == "__main__":
    raise SystemExit(estimate_cost())
