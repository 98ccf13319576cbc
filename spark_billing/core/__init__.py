"""What knows neither prices nor bills: errors, money, hours, text, schemas, columns, the session, storage."""

try:
    import pyspark  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "spark_billing needs PySpark, which a cluster brings; elsewhere: pip install 'spark_billing[local]'",
        name="pyspark",
    ) from None
