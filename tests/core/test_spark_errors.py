"""Whose fault an error of Spark's is: the user's table or expression, or anything else."""

import shutil

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from spark_billing.core.spark_errors import BROKEN_PROMISE, is_storage_failure, spark_reason, users_error
from tests.conftest import setting

MODEL = "array(named_struct('k', 'model', 'v', 'a'), named_struct('k', 'model', 'v', 'b'))"
EXPRESSIONS = [
    ("if(x = 'boom', raise_error('no such thing'), x)", "no such thing"),
    ("coalesce(assert_true(id < 0, 'must be below'), x)", "must be below"),
    ("(SELECT n FROM VALUES 1, 2 AS t(n))", "SCALAR_SUBQUERY_TOO_MANY_ROWS"),
    (f"map_from_entries({MODEL})[x]", "DUPLICATED_MAP_KEY"),
    ("id + 9223372036854775807", "ARITHMETIC_OVERFLOW"),
    ("cast(concat(x, id) as int)", "CAST_INVALID_INPUT"),
    ("id % (id - id)", "_BY_ZERO"),
    ("cast(id * 1000 as decimal(3, 0))", "NUMERIC_VALUE_OUT_OF_RANGE"),
    ("array(1, 2)[cast(id + 5 as int)]", "INVALID_ARRAY_INDEX"),
]


@pytest.fixture
def table(spark, tmp_path):
    """Of a file: rows in the plan would be computed before any task is."""
    spark.range(1, 3, 1, 1).select("id", F.lit("boom").alias("x")).write.parquet(str(tmp_path / "t"))
    return spark.read.parquet(str(tmp_path / "t"))


def failure(run):
    with pytest.raises((PySparkException, Py4JJavaError)) as failed:
        run()
    return failed.value


@pytest.mark.parametrize(
    ("expression", "words"),
    [*EXPRESSIONS[:4], *(pytest.param(*each, marks=pytest.mark.campaign) for each in EXPRESSIONS[4:])],
)
def test_what_an_expression_cannot_do_is_the_users(spark, table, expression, words):
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        error = failure(lambda: table.select(F.expr(expression)).collect())
        told = users_error(error)
        assert told is not None, str(error)
        assert words in told
        assert "\n" not in told
        assert "SQLSTATE" not in told
        assert not is_storage_failure(error)


@pytest.mark.campaign
def test_the_expression_is_named(spark, table):
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        error = failure(lambda: table.select(F.expr("cast(concat(x, id) as int)")).collect())
    assert "(in cast(concat(x, id) as int))" in users_error(error)


@pytest.mark.campaign
@pytest.mark.classic
@pytest.mark.parametrize("kind", range(4))
def test_it_is_the_users_as_well_where_a_task_was_writing(spark, table, tmp_path, kind):
    expression, words = EXPRESSIONS[kind]
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        error = failure(lambda: table.select(F.expr(expression).alias("a"), "id").write.parquet(str(tmp_path / "o")))
    assert words in users_error(error)


@pytest.mark.campaign
def test_a_udf_of_the_users_that_fails(spark, table):
    def fails(value):
        raise ValueError(f"cannot do {value}")

    error = failure(lambda: table.select(F.udf(fails, StringType())("x")).collect())
    assert "ValueError: cannot do boom" in users_error(error)


@pytest.mark.campaign
def test_a_name_that_is_none(spark, table):
    error = failure(lambda: table.select(F.expr("nobody")).collect())
    assert users_error(error).startswith("UNRESOLVED_COLUMN")
    assert users_error(failure(lambda: spark.table("no_such_table").collect())).startswith("TABLE_OR_VIEW_NOT_FOUND")
    assert users_error(failure(lambda: table.select(F.expr("((")).collect())).startswith("PARSE_SYNTAX_ERROR")


def test_a_promise_of_our_own_is_not_the_users(spark, table):
    broken = F.raise_error(F.concat(F.lit(BROKEN_PROMISE), F.lit("a row has no price: "), F.col("x")))
    error = failure(lambda: table.select(F.when(F.col("id") < 0, F.lit("a")).otherwise(broken)).collect())
    assert users_error(error) is None
    assert "a row has no price: boom" in str(error)


@pytest.mark.campaign
def test_a_promise_in_the_plan_of_another_failure_is_no_failure(spark, table):
    broken = F.raise_error(F.concat(F.lit(BROKEN_PROMISE), F.col("x"))).cast("string")
    with setting(spark, "spark.sql.ansi.enabled", "true"):
        frame = table.select(F.when(F.col("id") < 0, broken).alias("a"), F.expr("cast(concat(x, id) as int)"))
        assert "CAST_INVALID_INPUT" in users_error(failure(frame.collect))


@pytest.mark.campaign
@pytest.mark.classic
def test_a_file_that_is_broken_or_gone_is_the_users(spark, tmp_path):
    numbers = spark.range(0, 50000, 1, 1).select(F.expr("uuid()").alias("u"))
    for name in ("broken", "gone"):
        numbers.write.parquet(str(tmp_path / name))
    (file,) = (tmp_path / "broken").glob("*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(2000) + content[2004:])
    (tmp_path / "broken" / f".{file.name}.crc").unlink()
    broken, gone = (spark.read.parquet(str(tmp_path / name)) for name in ("broken", "gone"))
    shutil.rmtree(tmp_path / "gone")
    for frame in (broken, gone):
        error = failure(frame.agg(F.sum(F.hash("u"))).collect)
        assert users_error(error) is not None, str(error)[:3000]
        assert not is_storage_failure(error)


@pytest.mark.campaign
@pytest.mark.classic
def test_a_table_that_vanished(spark):
    spark.range(3).write.mode("overwrite").saveAsTable("vanishes")
    table = spark.table("vanishes")
    spark.sql("DROP TABLE vanishes")
    error = failure(table.collect)
    assert users_error(error) is not None, str(error)[:3000]


READING = (
    "An error occurred while calling o1.collectToPython.\n: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT"
    "] Encountered error while reading file s3a://b/u.parquet.  SQLSTATE: KD001\n\tat org.apache.spark.A.b(A.scala:1)\n"
)


@pytest.mark.parametrize(
    ("causes", "users"),
    [
        ("Caused by: java.io.EOFException: Reached the end of stream\n\tat org.apache.parquet.B.c(B.java:1)\n", True),
        ("Caused by: java.io.IOException: FAILED_TO_UNCOMPRESS(5)\n\tat org.xerial.snappy.S.t(S.java:1)\n", True),
        (
            "Caused by: java.lang.RuntimeException: u is not a Parquet file\n\tat org.apache.parquet.H.r(H.java:1)\n",
            True,
        ),
        ("Caused by: java.util.zip.ZipException: invalid block\n\tat java.util.zip.I.r(I.java:1)\n", True),
        ("Caused by: java.io.FileNotFoundException: No such file\n\tat org.apache.hadoop.fs.s3a.S.g(S.java:1)\n", True),
        (
            "Caused by: java.nio.file.AccessDeniedException: s3a://b\n\tat org.apache.hadoop.fs.s3a.S.t(S.java:1)\n",
            True,
        ),
        ("Caused by: java.net.SocketTimeoutException: Read timed out\n\tat java.net.S.r(S.java:1)\n", False),
        (
            "Caused by: java.io.InterruptedIOException: getFileStatus\n\tat a.B.c(B.java:1)\n"
            "Caused by: com.amazonaws.SdkClientException: Unable to execute\n\tat com.amazonaws.C.d(C.java:1)\n",
            False,
        ),
        (
            "Caused by: java.io.IOException: Input/output error\n\tat java.base/java.io.FileInputStream.r(F.java:1)\n",
            False,
        ),
        ("Caused by: com.aliyun.oss.ClientException: Connection reset\n\tat com.aliyun.oss.C.d(C.java:1)\n", False),
        (
            "Caused by: org.apache.hadoop.hdfs.BlockMissingException: Could not obtain block\n"
            "\tat org.apache.hadoop.hdfs.D.r(D.java:1)\n",
            False,
        ),
    ],
)
def test_a_broken_file_is_the_users_and_a_broken_storage_is_not(causes, users):
    error = Exception(READING + causes)
    assert (users_error(error) is not None) == users
    assert is_storage_failure(error) == (not users)
    assert "u.parquet" in spark_reason(error)


@pytest.mark.parametrize(
    "text",
    [
        "[INTERNAL_ERROR] Something is wrong in [CAST_INVALID_INPUT].  SQLSTATE: XX000",
        "[UNSUPPORTED_FEATURE.X] not this.  SQLSTATE: 0A000",
        "Job aborted due to stage failure: ExecutorLostFailure (executor 1 exited): Slave lost",
        "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)\n\tat a.B.c(B.java:1)",
        "java.lang.OutOfMemoryError: Java heap space\n\tat a.B.c(B.java:1)",
        "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
        '  File "/x/spark_billing.zip/spark_billing/prices/udfs.py", line 1, in f\nKeyError: 1\n\n\tat a.B.c(B)',
        "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
        "  File \"/x/worker.py\", line 1, in f\nModuleNotFoundError: No module named 'spark_billing'\n\n\tat a.B",
    ],
)
def test_what_is_not_the_users(text):
    assert users_error(Exception(text)) is None
    assert spark_reason(Exception(text))


def test_the_innermost_condition_counts():
    text = (
        "[TASK_WRITE_FAILED] Task failed while writing rows to file:/o.  SQLSTATE: 58030\n\tat a.B.c(B.scala:1)\n"
        "Caused by: org.apache.spark.SparkArithmeticException: [DIVIDE_BY_ZERO] Division by zero. Use `try_divide`. "
        "SQLSTATE: 22012\n== SQL (line 1, position 1) ==\na / b\n^^^^^\n\tat a.B.c(B.scala:1)\n"
    )
    assert users_error(Exception(text)) == "DIVIDE_BY_ZERO: Division by zero. Use `try_divide`. (in a / b)"


@pytest.mark.spark4
def test_a_state_that_only_the_error_knows(spark):
    error = failure(lambda: spark.sql("SELECT * FROM no_such_table").collect())
    assert error.getSqlState() == "42P01"
    assert users_error(error)
