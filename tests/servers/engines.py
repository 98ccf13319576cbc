"""Python with a PySpark of some version, for what the tests' own session cannot be: another engine, other jars."""

import json
import os
import subprocess
import sys

import pyspark

from tests.matrix import ENGINES, ROOT


def python(spark: str = pyspark.__version__) -> list[str]:
    """The command of a Python with this PySpark: this one, or one of tests/matrix.py's environments."""
    if spark == pyspark.__version__:
        return [sys.executable]
    return ["uv", "run", "-q", "--isolated", "--no-default-groups", *ENGINES[spark], "python"]


def run(module: str, given: object, spark: str = pyspark.__version__) -> dict[str, object]:
    """What a module, run as a script on this Spark, prints last, as JSON; what it is given is on its standard input."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))}
    done = subprocess.run(
        [*python(spark), "-m", module],
        cwd=ROOT,
        env=environment,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} on Spark {spark} failed:\n{done.stdout[-3000:]}\n{done.stderr[-8000:]}")
    return json.loads(done.stdout.strip().rpartition("\n")[2])
