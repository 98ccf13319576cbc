"""What is read of a usage table, and how: a condition, a schema, fields that are absent, names that mean a model."""

import json
from decimal import Decimal

import pytest

from spark_billing import UsageError, bill_usage
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.core.session import SESSION_SETTINGS
from spark_billing.usage.aliases import NAME, aliases_of, names_taken, take_models
from spark_billing.usage.checks import check_usage
from spark_billing.usage.mapping import ROW, usage_session
from spark_billing.usage.reading import Reading
from tests.conftest import ONE, call, record, rows, usage_frame

pytestmark = pytest.mark.classic

HEAD = "request_id,workspace_id,region,model,call_time,input_tokens,output_tokens"
ROW_OF = {
    "workspace_id": "w",
    "region": "cn-hangzhou",
    "model": "qwen-plus",
    "call_time": "2026-05-01T00:00:00+08:00",
    "input_tokens": 260,
    "output_tokens": 50,
}
SCHEMA = (
    "request_id string, workspace_id string, region string, model string, call_time timestamp, input_tokens bigint, "
    "output_tokens bigint"
)
OPENAI = {
    "request_id": "id",
    "call_time": "timestamp_seconds(created)",
    "input_tokens": "usage.prompt_tokens",
    "output_tokens": "usage.completion_tokens",
    "workspace_id": "'w'",
    "region": "'cn-hangzhou'",
}
ANSWER = {"id": "n-1", "created": 1777564800, "model": "qwen-plus"}
WHOLE = {**ANSWER, "id": "whole", "usage": {"prompt_tokens": 260, "completion_tokens": 50}}


def write_json(path, *lines):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def fates(spark, usd, reading, location):
    """The reason of each row by its request_id."""
    with usage_session(spark, reading.call_time_zone):
        mapped = reading.read(spark, location, usd)
        checked = check_usage(mapped.usage.drop(ROW, NAME), prices=usd, duplicates=reading.duplicates)
        found = {row["request_id"]: row["reject_reason"] for row in checked.collect()}
    return found, mapped.absent


def refused(spark, usd, location, **reading):
    with pytest.raises(UsageError) as error, usage_session(spark, None):
        Reading(**reading).read(spark, location, usd)
    assert "--" not in str(error.value)
    return error.value


# --- fields that no row has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [{**ANSWER, "usage": None}],
        pytest.param([ANSWER], marks=pytest.mark.campaign),
        pytest.param([{**ANSWER, "usage": {"total_tokens": 1}}], marks=pytest.mark.campaign),
    ],
)
def test_a_field_that_no_row_of_the_json_has_is_null(spark, usd, tmp_path, lines):
    log = write_json(tmp_path / "log.jsonl", *lines)
    found, absent = fates(spark, usd, Reading(OPENAI, "UTC"), log)
    assert found == {"n-1": "invalid_input_tokens"}
    assert absent == ["usage.prompt_tokens", "usage.completion_tokens"]


@pytest.mark.campaign
def test_the_row_stays_as_it_came(spark, usd, tmp_path):
    log = write_json(tmp_path / "log.jsonl", ANSWER)
    with usage_session(spark, "UTC"):
        usage = Reading(OPENAI, "UTC").read(spark, log, usd).usage
        assert usage.schema[ROW].dataType.names == ["created", "id", "model"]


def test_absent_fields_within_an_expression(spark, usd, tmp_path):
    log = write_json(tmp_path / "log.jsonl", WHOLE)
    both = {
        **OPENAI,
        "call_time": "timestamp_seconds(coalesce(created, created_at))",
        "input_tokens": "coalesce(usage.prompt_tokens, usage.input_tokens) + coalesce(usage.details.cached.read, 0)",
        "output_tokens": "CASE WHEN id = 'usage.x' THEN 1 ELSE coalesce(usage.completion_tokens, output.tokens) END",
    }
    found, absent = fates(spark, usd, Reading(both, "UTC"), log)
    assert found == {"whole": None}
    assert absent == ["created_at", "usage.input_tokens", "usage.details.cached.read", "output.tokens"]


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"request_id": "idd"}, "UNRESOLVED_COLUMN"),  # who called cannot be absent from every row of a log
        ({"call_time": "timestamp_seconds(usage.at)"}, "usage.at"),
        ({"input_tokens": "usage.prompt_tokens +"}, "PARSE_SYNTAX_ERROR"),
        ({"input_tokens": "no_such_function(usage.prompt_tokens)"}, "UNRESOLVED_ROUTINE"),
        ({"input_tokens": "id.tokens"}, "id.tokens"),  # text with something in it is not absent
    ],
)
def test_what_is_no_absent_field_is_refused(spark, usd, tmp_path, change, words):
    log = write_json(tmp_path / "log.jsonl", WHOLE)
    assert words in str(refused(spark, usd, log, columns={**OPENAI, **change}, call_time_zone="UTC"))


@pytest.mark.campaign
def test_a_count_that_no_row_has(spark, usd, tmp_path):
    """An hour of embeddings, of a log that leaves out what is null; other columns must be there or mapped."""
    calls = {**ROW_OF, "request_id": "e", "model": "text-embedding-v4"}
    log = write_json(tmp_path / "log.jsonl", {k: v for k, v in calls.items() if k != "output_tokens"})
    assert fates(spark, usd, Reading(), log) == ({"e": None}, ["output_tokens"])
    log = write_json(tmp_path / "other.jsonl", {k: v for k, v in calls.items() if k != "region"})
    assert "no column region" in str(refused(spark, usd, log))


def test_an_absent_count_is_never_a_number_by_default(spark, usd, tmp_path):
    """A name that is written wrong would be billed as 0; where other fields are there, null is what rows may lack."""
    log = write_json(tmp_path / "log.jsonl", WHOLE)
    for expression in ("coalesce(usage.completion_tokns, 0)", "if(outputs IS NULL, 0, outputs)"):
        error = refused(spark, usd, log, columns={**OPENAI, "output_tokens": expression}, call_time_zone="UTC")
        assert "usage_schema" in str(error)
    cached = {**OPENAI, "input_tokens": "usage.prompt_tokens + coalesce(usage.cached_tokens, 0)"}
    assert fates(spark, usd, Reading(cached, "UTC"), log) == ({WHOLE["id"]: None}, ["usage.cached_tokens"])


@pytest.mark.campaign
def test_parquet_and_a_given_schema_have_no_absent_fields(spark, usd, write, tmp_path):
    assert "UNRESOLVED_COLUMN" in str(refused(spark, usd, write([call(1)]), columns={"input_tokens": "tokens"}))
    log = write_json(tmp_path / "log.jsonl", WHOLE)
    schema = "id string, created bigint, model string"
    error = refused(spark, usd, log, columns=OPENAI, call_time_zone="UTC", usage_schema=schema)
    assert "usage.prompt_tokens" in str(error)


# --- a schema -------------------------------------------------------------------------------------------------------


def test_with_a_schema_a_row_has_the_same_fate_whatever_lies_beside_it(spark, usd, tmp_path):
    schema = "id string, created bigint, model string, usage struct<prompt_tokens: bigint, completion_tokens: bigint>"
    reading = Reading(OPENAI, "UTC", usage_schema=schema, usage_format="json")
    texts = {
        "nothing": {**ANSWER, "id": "nothing", "usage": None},
        "absent": {**ANSWER, "id": "absent"},
        "whole": WHOLE,
        "text": {**WHOLE, "id": "text", "usage": {"prompt_tokens": "260", "completion_tokens": 50}},
        "half": {**WHOLE, "id": "half", "usage": {"prompt_tokens": 2.5, "completion_tokens": 50}},
        "long": {**WHOLE, "id": "long", "usage": {"prompt_tokens": 260, "completion_tokens": 10**20}},
        "struct": {**WHOLE, "id": "struct", "usage": "many"},
    }
    expected = {
        "nothing": "invalid_input_tokens",
        "absent": "invalid_input_tokens",
        "whole": None,
        "text": "invalid_input_tokens",
        "half": "invalid_input_tokens",
        "long": "invalid_output_tokens",
        "struct": "invalid_input_tokens",
    }
    for name, line in texts.items():
        write_json(tmp_path / "all" / f"{name}.jsonl", line)
    assert fates(spark, usd, reading, str(tmp_path / "all")) == (expected, [])
    for name in ("nothing", "absent", "half"):
        alone = write_json(tmp_path / f"{name}.jsonl", texts[name])
        assert fates(spark, usd, reading, alone) == ({name: expected[name]}, [])


def test_a_row_that_is_read_in_part_is_never_billed(spark, usd, tmp_path):
    """Null would mean something else: an embedding has no output, nothing is cached. And every query agrees."""
    columns = {"input_tokens": "input_tokens + coalesce(cached, 0)"}
    schema = f"{SCHEMA}, cached bigint, note string"
    embedding = {**ROW_OF, "model": "text-embedding-v4"}
    log = write_json(
        tmp_path / "log.jsonl",
        {**embedding, "request_id": "output", "output_tokens": "many"},
        {**embedding, "request_id": "no output", "output_tokens": None},
        {**ROW_OF, "request_id": "cached", "cached": "100"},
        {**ROW_OF, "request_id": "fine", "cached": 100, "note": {"any": ["thing"]}},
        {**ROW_OF, "request_id": 7},
        "not json",
        "",
    )
    reading = Reading(columns, usage_schema=schema)
    expected = {
        "output": "invalid_output_tokens",
        "no output": None,
        "cached": "invalid_input_tokens",
        "fine": None,
        "7": None,
        None: "missing_request_id",
    }
    assert fates(spark, usd, reading, log)[0] == expected
    with usage_session(spark, None):
        usage = reading.read(spark, log, usd).usage
        assert usage.count() == 6
        one_column = {row["input_tokens"] for row in usage.select("input_tokens").collect()}
        assert one_column == {260, 360, None}  # as if all fields had been asked for
        (kept,) = usage.filter("request_id = 'cached'").select(f"{ROW}.*").collect()
        assert json.loads(kept["_corrupt_record"])["cached"] == "100"


@pytest.mark.campaign
def test_times_of_a_schema_are_text_by_the_rules_of_text(spark, usd, tmp_path):
    log = write_json(
        tmp_path / "log.jsonl", {**ROW_OF, "request_id": "a"}, {**ROW_OF, "request_id": "b", "call_time": "x"}
    )
    found, _ = fates(spark, usd, Reading(usage_schema=SCHEMA), log)
    assert found == {"a": None, "b": "missing_call_time"}
    zoneless = write_json(tmp_path / "z.jsonl", {**ROW_OF, "request_id": "a", "call_time": "2026-05-01 00:00:00"})
    assert fates(spark, usd, Reading(usage_schema=SCHEMA), zoneless)[0] == {"a": "missing_call_time"}  # then refused
    assert fates(spark, usd, Reading(call_time_zone="Asia/Shanghai", usage_schema=SCHEMA), zoneless)[0] == {"a": None}


@pytest.mark.campaign
@pytest.mark.parametrize("ansi_is", ["true", "false"])
def test_csv_with_a_schema(spark, usd, tmp_path, ansi_is):
    row = "w,cn-hangzhou,qwen-plus,2026-05-01T00:00:00+08:00"
    lines = ["fine", "text", "half", "long", "wide"]
    counts = ["260,50", "many,50", "260,50.7", "260,99999999999999999999", "260,50,1"]
    (tmp_path / "u.csv").write_text("\n".join([HEAD, *(f"{n},{row},{c}" for n, c in zip(lines, counts)), ""]))
    (tmp_path / "mixed.csv").write_bytes(f"{HEAD}\r\na,{row},260,50\r\nb,{row},260,50\n".encode())
    reading = Reading(usage_schema="Output_Tokens bigint, input_tokens bigint, call_time timestamp")
    spark.conf.set("spark.sql.ansi.enabled", ansi_is)
    try:
        found, _ = fates(spark, usd, reading, str(tmp_path / "u.csv"))
        assert found == {
            "fine": None,
            "text": "invalid_input_tokens",
            "half": "invalid_output_tokens",
            "long": "invalid_output_tokens",
            None: "missing_request_id",
        }
        assert fates(spark, usd, reading, str(tmp_path / "mixed.csv"))[0] == {"a": None, "b": None}
        with usage_session(spark, None):
            usage = reading.read(spark, str(tmp_path / "u.csv"), usd).usage
            kept = usage.filter("request_id = 'half'").select(f"{ROW}.*").collect()[0]
        assert kept["_corrupt_record"] == f"half,{row},260,50.7"
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("name", "schema", "words"),
    [
        ("u.jsonl", "bigint", "JSON_SCHEMA"),
        ("u.jsonl", "id strin", "strin"),
        ("u.jsonl", "id string, ID string", "id more than once"),
        (
            "u.jsonl",
            "id string, u struct<n: decimal(10,2)>",
            "u.n is decimal(10,2), in which a number would be rounded",
        ),
        ("u.jsonl", "id string, n array<float>", "n.element is float"),
        ("u.jsonl", "", "usage_schema is ''"),
        ("u.csv", "request_id struct<a: string>", "which a CSV value cannot be"),
        ("u.csv", "id string", "only: request_id, workspace_id"),
        ("u.parquet", "id string", "is read as parquet"),
    ],
)
def test_what_is_no_schema(spark, usd, tmp_path, name, schema, words):
    (tmp_path / name).write_text(f"{HEAD}\n" if name == "u.csv" else "{}\n")
    error = refused(spark, usd, str(tmp_path / name), usage_schema=schema)
    assert words in str(error)
    assert error.parameter == "usage_schema"


# --- a condition ----------------------------------------------------------------------------------------------------


def test_a_condition_over_the_sources_own_columns_reaches_the_scan(spark, usd, tmp_path):
    for day in ("2026-05-01", "2026-05-02"):
        calls = usage_frame(spark, [call(f"{day}-{n}", workspace_id=n) for n in ("a", "b")])
        calls.write.parquet(str(tmp_path / "u" / f"dt={day}"))
    (tmp_path / "u" / "dt=2026-05-02" / "broken.parquet").write_text("not parquet, and never read")
    reading = Reading({"workspace_id": "'w'"}, where="dt = '2026-05-01' AND workspace_id <> 'b'")
    assert fates(spark, usd, reading, str(tmp_path / "u"))[0] == {"r-2026-05-01-a": None}
    with usage_session(spark, None):
        usage = reading.read(spark, str(tmp_path / "u"), usd).usage
        plan = usage._jdf.queryExecution().executedPlan().toString()
    assert "2026-05-01" in plan[plan.index("PartitionFilters") :].split("PushedFilters")[0]
    assert "workspace_id" in plan[plan.index("PushedFilters") :].splitlines()[0]


@pytest.mark.parametrize("schema", [SCHEMA, pytest.param(None, marks=pytest.mark.campaign)])
def test_a_row_that_cannot_be_read_is_not_left_out_by_a_condition(spark, usd, tmp_path, schema):
    for day in ("1", "2"):
        lines = [{**ROW_OF, "request_id": f"{day}{n}", "workspace_id": n} for n in ("a", "b")]
        write_json(tmp_path / "u" / f"dt={day}" / "a.json", *lines, f"broken {day}")
    reading = Reading(where="workspace_id = 'a'", usage_format="json", usage_schema=schema)
    found, _ = fates(spark, usd, reading, str(tmp_path / "u"))
    assert found == {"1a": None, "2a": None, None: "missing_request_id"}
    of_day = Reading(where="dt = '2'", usage_format="json", usage_schema=schema)
    with usage_session(spark, None):
        usage = of_day.read(spark, str(tmp_path / "u"), usd).usage
        texts = sorted(str(row[ROW]["_corrupt_record"]) for row in usage.select(ROW).collect())
        assert texts == ["None", "None", "broken 2"]
        assert (
            "dt" in usage._jdf.queryExecution().executedPlan().toString().split("PartitionFilters")[1].splitlines()[0]
        )


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("model", "BOOLEAN"),
        ("modell = 'a'", "UNRESOLVED_COLUMN"),
        ("model = ", "PARSE_SYNTAX_ERROR"),
        ("sum(input_tokens) > 1", "where is 'sum(input_tokens) > 1'"),
        ("explode(array(true))", "GENERATOR"),
        ("rand() < 0.5", "NONDETERMINISTIC"),
        ("call_time > current_timestamp() - interval 1 day", "current_timestamp"),
        ("call_time > NOW ()", "question of more than the row"),
        ("model IN (SELECT model FROM other)", "'SELECT'"),
        ("row_number() OVER (ORDER BY model) = 1", "where is"),
    ],
)
def test_what_is_no_condition(spark, usd, write, where, words):
    error = refused(spark, usd, write([call(1)]), where=where)
    assert words in str(error)
    assert error.parameter == "where"


@pytest.mark.campaign
def test_words_of_sql_in_text_and_names_are_fine(spark, usd, write):
    usage = write([call(1)])
    assert fates(spark, usd, Reading(where="model <> 'now() select' AND `model` = \"qwen-plus\""), usage)[0] == {
        "r-1": None
    }


@pytest.mark.campaign
def test_a_condition_on_json_must_name_what_is_there(spark, usd, tmp_path):
    """A field that is absent, or written wrong, would leave out every row without a word."""
    log = write_json(tmp_path / "log.jsonl", {**ROW_OF, "request_id": "a"})
    assert "UNRESOLVED_COLUMN" in str(refused(spark, usd, log, where="error IS NULL"))
    assert fates(spark, usd, Reading(where="error IS NULL", usage_schema=f"{SCHEMA}, error string"), log)[0] == {
        "a": None
    }


# --- names that mean a model ----------------------------------------------------------------------------------------


def taken(spark, usd, names, *aliases):
    usage = usage_frame(spark, [call(n, model=name) for n, name in enumerate(names)])
    return take_models(usage, aliases_of(aliases, usd), usd)


def test_the_first_pattern_that_fits_wins(spark, usd):
    names = [
        "qwen-plus-latest",
        "qwen-plus-2025",
        "QWEN-PLUS-x",
        "qwenXplus",
        "a\nqwen",
        "a.b",
        "axb",
        "",
        None,
        "qwen-plus",
    ]
    aliases = [
        ("qwen-plus-latest", "qwen-plus"),
        ("qwen-plus-*", "text-embedding-v4"),
        ("a*qwen", "qwen-plus"),
        ("a.b", "qwen-plus"),
    ]
    usage = taken(spark, usd, names, *aliases)
    found = [row["model"] for row in usage.orderBy("request_id").select("model").collect()]
    expected = ["qwen-plus", "text-embedding-v4", "QWEN-PLUS-x", "qwenXplus", "qwen-plus", "qwen-plus", "axb", "", None]
    assert found == [*expected, "qwen-plus"]
    assert names_taken(usage) == [
        {"name": name, "model": model, "calls": 1}
        for name, model in sorted(
            [("qwen-plus-latest", "qwen-plus"), ("qwen-plus-2025", "text-embedding-v4"), ("a\nqwen", "qwen-plus"),
             ("a.b", "qwen-plus")]
        )
    ]  # fmt: skip


@pytest.mark.campaign
def test_every_letter_of_a_pattern_is_meant_as_it_is(spark, usd):
    odd = "a\\Q+[b](c){d}^$|?.-_ é'\"%#E"
    usage = taken(spark, usd, [odd + "1", "x" + odd, odd.replace("+", "Q")], (odd + "*", "qwen-plus"))
    assert [row["model"] == "qwen-plus" for row in usage.orderBy("request_id").collect()] == [True, False, False]


def test_a_model_of_the_list_is_taken_for_another_only_by_its_name(spark, usd):
    names = ["qwen-plus", "text-embedding-v4"]
    anything = taken(spark, usd, [*names, "new"], ("*", "qwen-plus"))
    assert [row["model"] for row in anything.orderBy("request_id").collect()] == [
        "qwen-plus",
        "text-embedding-v4",
        "qwen-plus",
    ]
    named = taken(spark, usd, names, ("text-embedding-v4", "qwen-plus"))
    assert [row["model"] for row in named.orderBy("request_id").collect()] == ["qwen-plus", "qwen-plus"]


@pytest.mark.campaign
def test_names_beyond_a_thousand_are_counted_together(spark, usd):
    many = spark.range(1500).selectExpr("concat('n', 10000 + id) AS model").union(spark.sql("SELECT 'n10000'"))
    found = names_taken(take_models(many, [("n*", "qwen-plus")], usd))
    assert len(found) == 1001
    assert found[0] == {"name": "n10000", "model": "qwen-plus", "calls": 2}
    assert found[-1] == {"name": None, "model": "qwen-plus", "calls": 500, "names": 500}


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ([("a", "qwen-pluss")], "did you mean qwen-plus"),
        ({"a": "gpt"}, "it has qwen-plus, text-embedding-v4"),
        ([("", "qwen-plus")], "both sides"),
        ([("a", "qwen-plus"), ("a", "qwen-plus")], "given twice"),
        (["a"], "both sides"),
        ("a=b", "no model 'b'"),
        ([("a", "b", "c")], "needed is PATTERN=MODEL"),
        ([1], "needed is PATTERN=MODEL"),
    ],
)
def test_what_is_no_alias(usd, aliases, words):
    with pytest.raises(UsageError, match=words) as refused:
        aliases_of(aliases, usd)
    assert refused.value.parameter == "model_alias"


def test_aliases_as_the_jobs_take_them(usd):
    assert aliases_of(["a-*=qwen-plus", ("b", "qwen-plus")], usd) == [("a-*", "qwen-plus"), ("b", "qwen-plus")]


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.campaign
def test_a_run_says_what_it_read_and_what_it_took_for_what(spark, bill, tmp_path):
    """One row of two is rejected, which is one more than may be: done, committed, and exit code 6."""
    lines = [
        {**ROW_OF, "request_id": m, "model": m} for m in ("qwen-plus-latest", "qwen-plus-2025-07-28", "qwen3.6-plus")
    ]
    log = write_json(tmp_path / "log.jsonl", *lines, {**ROW_OF, "request_id": "batch"})
    options = ["--where", "request_id <> 'batch'", "--usage-schema", SCHEMA, "--max-rejected", "0"]
    aliases = ["--model-alias", "qwen-plus-latest=qwen-plus", "--model-alias", "qwen-plus-*=qwen-plus"]
    code, out, err = bill(log, *options, *aliases)
    assert code == 6
    assert err.count("\n") == 1
    assert "1 of 3 rows were rejected, and max_rejected allows 0: unknown_model 1. The run is done and committed" in err
    assert err.rstrip().endswith("(--max-rejected)")
    assert "Total: 0.00010616 USD" in out
    assert "qwen-plus-latest for qwen-plus (1 calls)" in out
    done = record(tmp_path / "out")
    assert done["totals"]["rows"] == {"read": 3, "billed": 2, "rejected": 1}
    assert done["totals"]["amount"] == str(Decimal("0.00010616").quantize(Decimal("1e-12")))
    assert done["arguments"]["where"] == "request_id <> 'batch'"
    assert done["arguments"]["model_alias"] == [["qwen-plus-latest", "qwen-plus"], ["qwen-plus-*", "qwen-plus"]]
    assert (done["arguments"]["usage_schema"], done["arguments"]["max_rejected"]) == (SCHEMA, "0")
    assert done["model_aliases"] == [
        {"name": name, "model": "qwen-plus", "calls": 1} for name in ("qwen-plus-2025-07-28", "qwen-plus-latest")
    ]
    lines = rows(spark, tmp_path / "out", "bill_lines", "token_type")
    assert {(line["model"], line["requests"]) for line in lines} == {("qwen-plus", 2)}
    assert [r["model"] for r in rows(spark, tmp_path / "out", "rejected", "request_id")] == ["qwen3.6-plus"]


@pytest.mark.campaign
def test_a_notebook_learns_of_rejected_rows_without_an_exception(spark, usd, tmp_path, caplog):
    usage = usage_frame(spark, [call(1, model="a-1"), call(2, model="x")])
    given = {"prices": usd, "source": "the log", "model_alias": {"a-*": "qwen-plus"}, "where": "model <> 'y'"}
    done = bill_usage(usage, output=str(tmp_path / "one"), max_rejected="10%", **given)
    assert done.rejected_too_many == "1 of 2 rows were rejected, and max_rejected allows 10%: unknown_model 1"
    assert "run 1, which is committed" in caplog.text
    assert done.totals.amount == ONE
    assert done.model_aliases == [{"name": "a-1", "model": "qwen-plus", "calls": 1}]
    assert bill_usage(usage, output=str(tmp_path / "two"), max_rejected="50%", **given).rejected_too_many is None
    with pytest.raises(UsageError, match="this usage is a DataFrame"):
        bill_usage(usage, output=str(tmp_path / "three"), usage_schema=SCHEMA, **given)


@pytest.mark.campaign
def test_nothing_could_be_billed(spark, bill, tmp_path):
    (tmp_path / "u.csv").write_text(
        f"{HEAD}\nr-1,w,cn-hangzhou,qwen-plus,1777564800000,260,50\n"
        "r-2,w,cn-hangzhou,qwen3.6-plus,2026-05-01T00:00:00+08:00,260,50\n"
    )
    code, _, err = bill(str(tmp_path / "u.csv"))
    assert (code, "all 2 rows were rejected and none was billed" in err) == (6, True)
    assert bill(str(tmp_path / "u.csv"), "--max-rejected", "2")[0] == 0
    assert bill(str(tmp_path / "u.csv"), "--dry-run")[0] == 6
    assert (
        bill(str(tmp_path / "u.csv"), "--last", "2", "--as-of", "2026-04-01T00:00Z", "--where", "request_id='x'")[0]
        == 0
    )
    open_only = ["--closed-after", "48", "--as-of", "2026-05-01T00:30+08:00", "--where", "request_id = 'r-2'"]
    assert bill(str(tmp_path / "u.csv"), *open_only, output="open")[0] == 0


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-alias", "a=gpt"], "--model-alias"),
        (["--max-rejected", "many"], "--max-rejected"),
        (["--usage-schema", "id string"], "--usage-schema"),
        (["--where", "nobody = 1"], "--where"),
    ],
)
def test_the_option_is_named(write, bill, arguments, words):
    code, out, err = bill(write([call(1)]), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.rstrip().endswith(f"({words})")


def test_an_alias_without_a_model_is_no_argument(capsys):
    with pytest.raises(SystemExit) as stop:
        hourly_bill(["--usage", "u", "--output", "o", "--currency", "USD", "--model-alias", "qwen"])
    assert stop.value.code == 2
    assert "PATTERN=MODEL" in capsys.readouterr().err


def test_partial_rows_need_a_setting_that_runs_have():
    assert SESSION_SETTINGS["spark.sql.json.enablePartialResults"] == "true"
