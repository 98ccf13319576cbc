"""Jars for the tests, as Maven resolves them.

A cluster brings the jars of its table format, PySpark brings none. `spark.jars.packages` would resolve them in each
session anew, and only for a session; the servers need jars too.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".pytest_cache" / "jars"

# By table format, then by version of Spark
FORMATS = {
    "iceberg": {
        "3.5": ["org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.9.2"],
        "4.0": ["org.apache.iceberg:iceberg-spark-runtime-4.0_2.13:1.10.0"],
        "4.1": ["org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0"],
    },
    "delta": {
        "3.5": ["io.delta:delta-spark_2.12:3.3.2"],
        "4.0": ["io.delta:delta-spark_2.13:4.0.0"],
        "4.1": ["io.delta:delta-spark_4.1_2.13:4.1.0"],
    },
    "paimon": {"3.5": ["org.apache.paimon:paimon-bundle:1.3.1"]},
}
DRIVERS = {"postgresql": "org.postgresql:postgresql:42.7.8", "sqlite": "org.xerial:sqlite-jdbc:3.50.3.0"}

_POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>jars</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
_DEPENDENCY = (
    "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>"
    "<classifier>{}</classifier>{}</dependency>"
)
_NOTHING_ELSE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


@cache
def jars(*coordinates: str, alone: bool = False) -> list[str]:
    """The jars of some Maven coordinates, group:artifact:version[:classifier], and, if not alone, of all they need.

    They stay in Maven's own repository. Which they are is remembered in the folder that pytest caches in, since
    asking Maven takes seconds.
    """
    dependencies = "".join(
        _DEPENDENCY.format(*(*one.split(":"), "")[:4], _NOTHING_ELSE if alone else "") for one in coordinates
    )
    pom = _POM.format(dependencies=dependencies)
    remembered = CACHE / hashlib.sha256(pom.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two Mavens at once may each read what the other has half written
        found = remembered.read_text().split(":") if remembered.exists() else []
        if not found or not all(map(os.path.exists, found)):
            found = _resolve(pom, remembered.with_suffix(".xml"))
            remembered.write_text(":".join(found))
    return found


def _resolve(pom: str, file: Path) -> list[str]:
    maven = shutil.which("mvn")
    if maven is None:
        raise RuntimeError("these tests need Maven to get jars: install the Debian package maven")
    file.write_text(pom)
    answer = file.with_suffix(".answer")
    command = [maven, "-q", "-B", "-f", str(file), "dependency:build-classpath", f"-Dmdep.outputFile={answer}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"Maven found no jars:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    return answer.read_text().strip().split(":")


def format_jars(table_format: str, spark: str) -> list[str]:
    """The jars of a table format for a version of Spark such as 4.1.1."""
    by_version = FORMATS[table_format]
    version = ".".join(spark.split(".")[:2])
    if version not in by_version:
        raise ValueError(f"no jars of {table_format} for Spark {spark}; there are some for {', '.join(by_version)}")
    connector = [_paimon_connector()] if table_format == "paimon" else []
    return [*connector, *jars(*by_version[version])]


def _paimon_connector() -> str:
    """Paimon's connector for Spark 3.5 is a file beside the repository: it cannot be had from Maven everywhere."""
    given = os.environ.get("SPARK_BILLING_PAIMON")
    path = Path(given) if given else ROOT.parent / "shared" / "jars" / "paimon-spark-3.5-1.3.1.jar"
    if not path.exists():
        raise RuntimeError(f"Paimon's connector is not at {path}: set SPARK_BILLING_PAIMON to where it is")
    return str(path)
