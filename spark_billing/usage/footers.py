"""The footers of Parquet and ORC files, looked at by the executors, many files in a task.

Spark has no function that reads a footer, and the Python of an executor no way to the storage. But each executor
compiles Java for every query; so it is given this short text as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_billing.core.columns import literal_rows

_FILES_IN_A_TASK = 16
# Of each file a line: its name, and what it says, in Parquet the schema, in ORC the zone of its times, that of this JVM
# and whether these are the same. A file of another kind is told; storage that fails is for Spark to try again.
_READ = r"""
org.apache.hadoop.conf.Configuration configuration =
    ((org.apache.spark.util.SerializableConfiguration) hadoop).value();
StringBuilder told = new StringBuilder();
String[] files = ((String) names).split("\n");
for (int i = 0; i < files.length; i++) {
    org.apache.hadoop.fs.Path path = new org.apache.hadoop.fs.Path(new java.net.URI(files[i]));
    String text = null;
    try {
        %s
    } catch (RuntimeException e) {
        text = "unreadable\t" + e.getMessage();
    } catch (org.apache.orc.FileFormatException e) {
        text = "unreadable\t" + e.getMessage();
    }
    boolean isEmpty = text == null || (text.startsWith("unreadable")
        && path.getFileSystem(configuration).getFileStatus(path).getLen() == 0);
    if (!isEmpty) {
        told.append(files[i]).append('\u0001').append(text.replace('\n', '\u0002')).append('\n');
    }
}
return org.apache.spark.unsafe.types.UTF8String.fromString(told.toString());
"""
_READ_ONE = {
    "parquet": r"""
        text = org.apache.parquet.hadoop.ParquetFileReader.readFooter(configuration, path,
            org.apache.parquet.format.converter.ParquetMetadataConverter.SKIP_ROW_GROUPS
        ).getFileMetaData().getSchema().toString();
    """,
    "orc": r"""
        org.apache.orc.Reader reader =
            org.apache.orc.OrcFile.createReader(path, org.apache.orc.OrcFile.readerOptions(configuration));
        try {
            if (!reader.getStripes().isEmpty()) {
                org.apache.orc.RecordReader rows = reader.rows();
                try {
                    String zone = ((org.apache.orc.impl.RecordReaderImpl) rows).readStripeFooter(
                        (org.apache.orc.StripeInformation) reader.getStripes().get(0)).getWriterTimezone();
                    java.util.TimeZone here = java.util.TimeZone.getDefault();
                    text = zone + "\t" + here.getID() + "\t"
                        + (zone.length() > 0 && java.util.TimeZone.getTimeZone(zone).hasSameRules(here));
                } finally {
                    rows.close();
                }
            }
        } finally {
            reader.close();
        }
    """,
}


def footers(spark: SparkSession, file_format: str, files: Sequence[str]) -> list[Row]:
    """What the footers of files say that matters here, each `text` once, with its `files` (URIs). Empty files, and ORC
    without rows, say nothing."""
    tasks = [files[n : n + _FILES_IN_A_TASK] for n in range(0, len(files), _FILES_IN_A_TASK)]
    names = literal_rows(spark, "names string", ({"names": "\n".join(task)} for task in tasks))
    told = names.repartition(len(tasks)).select(_read(spark, file_format).alias("told"))
    lines = told.select(F.explode(F.split("told", "\n")).alias("line")).filter(F.col("line") != "")
    parts = F.split("line", "\x01")
    found: DataFrame = lines.select(parts[0].alias("file"), F.translate(parts[1], "\x02", "\n").alias("text"))
    return found.groupBy("text").agg(F.collect_list("file").alias("files")).collect()


def _read(spark: SparkSession, file_format: str) -> Column:
    """What the files in the column `names` say: `Function2.call(hadoop, names)` of the compiled text."""
    session: Any = spark
    jvm, gateway = session._jvm, session.sparkContext._gateway
    objects = jvm.org.apache.spark.sql.catalyst.expressions.objects

    def seq(*items: Any) -> Any:
        return jvm.org.apache.spark.api.python.PythonUtils.toSeq(list(items))

    def of_class(name: str) -> Any:
        return jvm.org.apache.spark.sql.types.ObjectType(jvm.java.lang.Class.forName(name))

    def given(value: Any, name: str) -> Any:
        return jvm.org.apache.spark.sql.catalyst.expressions.Literal(value, of_class(name))

    def call(on: Any, method: str, gives: Any, *arguments: Any) -> Any:
        return objects.Invoke(on, method, gives, seq(*arguments), seq(), True, True, True)

    text = of_class("java.lang.String")
    function = "org.apache.spark.api.java.function.Function2"
    compiler = "org.codehaus.janino.ScriptEvaluator"
    parameters = gateway.new_array(jvm.java.lang.String, 2)
    parameters[0], parameters[1] = "hadoop", "names"
    hadoop = jvm.org.apache.spark.util.SerializableConfiguration(session._jsparkSession.sessionState().newHadoopConf())
    janino = objects.NewInstance(
        jvm.java.lang.Class.forName(compiler), seq(), seq(), False, of_class(compiler), jvm.scala.Option.empty()
    )
    read = call(
        janino,
        "createFastEvaluator",
        of_class(function),
        given(_READ % _READ_ONE[file_format], "java.lang.String"),
        given(jvm.java.lang.Class.forName(function), "java.lang.Class"),
        given(parameters, "[Ljava.lang.String;"),
    )
    names = jvm.org.apache.spark.sql.catalyst.analysis.UnresolvedAttribute.quotedString("names")
    told = call(
        read,
        "call",
        jvm.org.apache.spark.sql.types.DataType.fromDDL("string"),
        given(hadoop, "org.apache.spark.util.SerializableConfiguration"),
        call(names, "toString", text),
    )
    if session.version.startswith("3."):
        return Column(jvm.org.apache.spark.sql.Column(told))
    from pyspark.sql.classic.column import Column as ClassicColumn

    return ClassicColumn(jvm.org.apache.spark.sql.classic.ExpressionUtils.column(told))
