"""Files, schemas and price lists that are not as they should be, each with the outcome it must have.

What is wrong with single rows stands in cases/reject_reasons.csv, what is wrong with price lists in test_price_list.py.
"""

import gzip

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from tests.conftest import ONE, call, record, rows

pytestmark = pytest.mark.classic

GOOD = [call(1), call(2)]
HEAD = "request_id,workspace_id,region,model,call_time,input_tokens,output_tokens"
ROW = "w,cn-hangzhou,qwen-plus,2026-04-08T00:00:00+08:00,260,50"


def table(calls=GOOD, **types):
    made = pa.Table.from_pylist(calls)
    for name, values in types.items():
        made = made.set_column(made.schema.get_field_index(name), name, values)
    return made


def truncated_parquet(folder):
    pq.write_table(table(), folder / "a.parquet")
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(content[: len(content) // 2])


def one_of_two_truncated(folder):
    pq.write_table(table(), folder / "a.parquet")
    pq.write_table(table([call(n) for n in range(3000)]), folder / "b.parquet")
    content = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[:2000] + bytes(1000) + content[3000:])


def not_parquet(folder):
    (folder / "a.parquet").write_text("request_id,workspace_id\n1,2\n")


def empty_directory(folder):
    pass


def only_a_marker(folder):
    (folder / "_SUCCESS").touch()


def empty_file(folder):
    (folder / "a.parquet").touch()


def no_columns(folder):
    (folder / "a.csv").touch()


def a_column_is_missing(folder):
    pq.write_table(table().drop_columns(["model"]), folder / "a.parquet")


def types_that_differ_by_file(folder):
    pq.write_table(table(), folder / "a.parquet")
    pq.write_table(table(input_tokens=pa.array(["many", "260"])), folder / "b.parquet")


def a_count_is_yes_or_no(folder):
    pq.write_table(table(output_tokens=pa.array([True, False])), folder / "a.parquet")


def a_model_is_a_struct(folder):
    pq.write_table(table(model=pa.array([{"name": "qwen-plus"}] * 2)), folder / "a.parquet")


def a_time_is_a_date(folder):
    pq.write_table(table(call_time=pa.array([20551] * 2, pa.date32())), folder / "a.parquet")


def a_time_is_a_number(folder):
    pq.write_table(table(call_time=pa.array([1775577600] * 2)), folder / "a.parquet")


def a_time_has_no_zone(folder):
    pq.write_table(table(call_time=pa.array([0, 0], pa.timestamp("us"))), folder / "a.parquet")


def a_name_twice_but_for_case(folder):
    pq.write_table(table().append_column("Model", pa.array(["a", "b"])), folder / "a.parquet")


def csv_of_two_headers(folder):
    (folder / "a.csv").write_text(f"{HEAD}\nr-1,{ROW}\n")
    (folder / "b.csv").write_text("request_id,region,workspace_id,model,call_time,input_tokens,output_tokens\n")
    with (folder / "b.csv").open("a") as file:
        file.write(f"r-2,{ROW}\n")


def csv_header_twice(folder):
    (folder / "a.csv").write_text(f"{HEAD},model\nr-1,{ROW},x\n")


def csv_of_an_open_quote(folder):
    """Read as one row, and the call after it as its note."""
    (folder / "a.csv").write_text(f'{HEAD},note\nr-1,{ROW},"open\nr-2,{ROW},x\n')


def csv_of_quotes_that_swallow_a_row(folder):
    """Their number is even, and the second call a part of the first one's note."""
    (folder / "a.csv").write_text(f'{HEAD},note\nr-1,{ROW},"open\nr-2,{ROW},x\nr-3,{ROW},"x\n')


def no_line_is_json(folder):
    (folder / "a.json").write_text("request_id,workspace_id\n1,2\n")


def truncated_gzip(folder):
    lines = "".join(f"r-{n},{ROW}\n" for n in range(5000))
    content = gzip.compress(f"{HEAD}\n{lines}".encode())
    (folder / "a.csv.gz").write_bytes(content[: len(content) // 2])


def truncated_orc(folder):
    pyarrow.orc.write_table(table(), str(folder / "a.orc"))
    content = (folder / "a.orc").read_bytes()
    (folder / "a.orc").write_bytes(content[: len(content) // 2])


REFUSED = [
    (truncated_parquet, "parquet", "cannot read the usage"),
    (one_of_two_truncated, "parquet", "the usage cannot be billed"),
    (not_parquet, "parquet", "cannot read the usage"),
    (empty_directory, "parquet", "cannot read the usage"),
    (only_a_marker, "parquet", "cannot read the usage"),
    (empty_file, "parquet", "cannot read the usage"),
    (no_columns, "csv", "no column"),
    (a_column_is_missing, "parquet", "no column model"),
    (types_that_differ_by_file, "parquet", "the usage cannot be billed"),
    (a_count_is_yes_or_no, "parquet", "a whole number is needed"),
    (a_model_is_a_struct, "parquet", "text is needed"),
    (a_time_is_a_date, "parquet", "an instant is needed"),
    (a_time_is_a_number, "parquet", "an instant is needed"),
    (a_time_has_no_zone, "parquet", "--call-time-zone"),
    (a_name_twice_but_for_case, "parquet", "COLUMN_ALREADY_EXISTS"),
    (csv_of_two_headers, "csv", "FAILED_READ_FILE"),
    (csv_header_twice, "csv", "a name of its own"),
    (csv_of_an_open_quote, "csv", "an odd number of quotes"),
    (csv_of_quotes_that_swallow_a_row, "csv", "quote"),
    (no_line_is_json, "json", "no line that is JSON"),
    (truncated_gzip, "csv", "cannot read the usage"),
    (truncated_orc, "orc", "cannot read the usage"),
]


@pytest.mark.parametrize(("make", "file_format", "words"), REFUSED, ids=[make.__name__ for make, _, _ in REFUSED])
def test_refused_in_one_line_and_nothing_written(bill, tmp_path, make, file_format, words):
    (tmp_path / "u").mkdir()
    make(tmp_path / "u")
    code, out, err = bill(str(tmp_path / "u"), "--usage-format", file_format)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_files_that_are_odd_but_right(spark, bill, tmp_path):
    """A BOM, CRLF, quotes, a blank line, an extra column, columns in capitals and in another order."""
    head = "Output_Tokens,INPUT_TOKENS,call_time,model,region,workspace_id,request_id,note"
    body = '50,260,2026-04-08T00:00:00+08:00,qwen-plus,"cn-hangzhou",w,"r-1","a, ""b"""\r\n\r\n'
    (tmp_path / "u.csv").write_bytes(b"\xef\xbb\xbf" + f"{head}\r\n{body}".encode())
    assert bill(str(tmp_path / "u.csv"))[0] == 0
    assert [b["amount"] for b in rows(spark, tmp_path / "out", "bills")] == [ONE]
    assert record(tmp_path / "out")["totals"]["rows"] == {"read": 1, "billed": 1, "rejected": 0}


@pytest.mark.parametrize(
    ("end", "path"),
    [
        pytest.param("\r\n", "u", id="crlf-folder"),
        pytest.param("\n", "u", id="lf-folder", marks=pytest.mark.campaign),
        pytest.param("\r\n", "u/*.csv", id="crlf-glob", marks=pytest.mark.campaign),
        pytest.param("\n", "u/*.csv", id="lf-glob", marks=pytest.mark.campaign),
    ],
)
def test_a_line_break_within_a_quoted_csv_value_is_no_row(spark, bill, tmp_path, end, path):
    """A call that stands in a prompt is text; rows of another width are rejected whole, with the breaks they have."""
    forged = f"forged-1,{ROW},x"
    texts = [
        [f"{HEAD},prompt", f'r-1,{ROW},"Say:', forged, f'and a ""quote"", {end}"', f"r-2,{ROW},plain"],
        [f"{HEAD},prompt", f'r-3,{ROW},"two', 'lines",more', f'r-4,{ROW},"{forged}{end}"', ""],
    ]
    (tmp_path / "u").mkdir()
    for name, lines in zip("ab", texts):
        (tmp_path / "u" / f"{name}.csv").write_bytes(end.join(lines).encode())
    assert bill(str(tmp_path / path), "--usage-format", "csv")[0] == 0
    (only,) = rows(spark, tmp_path / "out", "bills")
    assert (only["requests"], only["amount"]) == (3, 3 * ONE)
    (rejected,) = rows(spark, tmp_path / "out", "rejected", "_corrupt_record")
    assert rejected["_corrupt_record"].splitlines() == [f'r-3,{ROW},"two', 'lines",more']
    assert rejected["request_id"] is None


@pytest.mark.campaign
def test_lines_that_end_in_two_ways(spark, bill, tmp_path):
    (tmp_path / "u.csv").write_bytes(f"{HEAD},note\nr-1,{ROW},x\r\nr-2,{ROW},y\n".encode())
    (tmp_path / "v.csv").write_bytes(f"{HEAD}\nr-1,{ROW}\r\nr-2,{ROW}\n".encode())
    for name in ("u", "v"):
        assert bill(str(tmp_path / f"{name}.csv"), output=name)[0] == 0
        assert [b["requests"] for b in rows(spark, tmp_path / name, "bills")] == [2]


def test_files_of_two_csv_headers_are_refused_by_a_glob_too(bill, tmp_path):
    (tmp_path / "u").mkdir()
    csv_of_two_headers(tmp_path / "u")
    code, _, err = bill(str(tmp_path / "u/*.csv"))
    assert (code, "FAILED_READ_FILE" in err, err.count("\n")) == (2, True, 1)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["VIEW", pytest.param("TEMPORARY VIEW", marks=pytest.mark.campaign)])
def test_orc_of_another_zone_is_refused_under_a_view(spark, write, bill, kind):
    """DESCRIBE shows no format of a view."""
    zones = spark._jvm.java.util.TimeZone
    here = zones.getDefault()
    orc, parquet = write([call(1)], "o", "orc"), write([call(2)], "p")
    spark.sql(f"CREATE TABLE orc_calls USING orc LOCATION '{orc}'")
    spark.sql(f"CREATE TABLE parquet_calls USING parquet LOCATION '{parquet}'")
    try:
        spark.sql(f"CREATE {kind} some_calls AS SELECT * FROM parquet_calls UNION ALL SELECT * FROM orc_calls")
        zones.setDefault(zones.getTimeZone("America/New_York"))
        try:
            found = {name: bill(name, "--usage-format", "table", output=name) for name in ("some_calls", "orc_calls")}
            unmoved = bill("parquet_calls", "--usage-format", "table", output="unmoved")[0]
        finally:
            zones.setDefault(here)
        for code, _, err in found.values():
            assert code == 2
            assert "this Spark runs in America/New_York" in err
        assert unmoved == 0
        assert bill("some_calls", "--usage-format", "table")[0] == 0
    finally:
        spark.sql("DROP VIEW IF EXISTS some_calls")
        spark.sql("DROP TABLE orc_calls")
        spark.sql("DROP TABLE parquet_calls")


def test_a_price_list_with_a_bom_crlf_and_quotes(spark, write, bill, tmp_path):
    head = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency,source"
    row = '"qwen-plus",cn-hangzhou,0,1M,0.000138,"0.000344",USD,"a ""quoted"" source, with a comma"'
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + f"{head}\r\n{row}\r\n".encode())
    assert bill(write(GOOD), "--price-list", str(tmp_path / "p.csv"))[0] == 0
    assert [b["amount"] for b in rows(spark, tmp_path / "out", "bills")] == [2 * ONE]


def test_a_file_without_a_column_that_another_has(spark, bill, tmp_path):
    """Spark takes the columns of one file for all: the run is refused, or the rows without the value are rejected."""
    (tmp_path / "u").mkdir()
    pq.write_table(table(), tmp_path / "u" / "a.parquet")
    pq.write_table(table([call(3)]).drop_columns(["output_tokens"]), tmp_path / "u" / "b.parquet")
    code, _, err = bill(str(tmp_path / "u"))
    if code == 2:
        assert "no column output_tokens" in err
    else:
        assert record(tmp_path / "out")["totals"]["rejected"] == {"invalid_output_tokens": 1}
