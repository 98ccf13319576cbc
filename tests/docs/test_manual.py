"""The operators' manual is true: its commands run one after the other, and print what it and the README show."""

import contextlib
import io
import json
import re
from decimal import Decimal

import pytest

from spark_billing.commands import command
from spark_billing.commands.hourly_bill import hourly_bill
from spark_billing.usage.reasons import REASONS
from tests.conftest import call, record, rows
from tests.docs.blocks import ROOT, claim, text_of
from tests.docs.commands import BY_JOB, parser_of, run_job
from tests.oracle import COMMERCIAL_START

MANUAL = text_of("jobs/README.md")
*RUN, UPLOAD = claim("jobs/README.md", "sh")
SHOWN = claim("jobs/README.md", "text")
OF_README = claim("README.md", "text")
(REQUEST,) = claim("jobs/README.md", "json")
AN_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+08:00")  # when a run was made


@pytest.fixture(scope="module")
def printed(spark, tmp_path_factory):
    """What each command of the manual prints, by its line; the demo, which is the first, makes what the others read."""
    demo = str(tmp_path_factory.mktemp("manual") / "demo")
    found = {}
    for block in RUN:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert run_job(block, demo=demo) == 0, block.text
        found[block.line] = out.getvalue()
    return found


def is_in(shown, text):
    """Fails unless each line is printed; a line with ... stands for any number of them."""
    text = AN_INSTANT.sub("AN INSTANT", text)
    for line in AN_INSTANT.sub("AN INSTANT", shown).splitlines():
        if line.strip() and "..." not in line:
            assert line.rstrip() in text, line


@pytest.mark.campaign
@pytest.mark.classic
def test_the_commands_print_what_the_manual_shows(printed):
    for block in SHOWN:
        is_in(block.text, printed[max(line for line in printed if line < block.line)])


@pytest.mark.campaign
@pytest.mark.classic
def test_the_demo_prints_what_the_readme_shows(printed):
    for block in OF_README:
        is_in(block.text, printed[RUN[0].line])


def test_every_job_has_a_section_and_a_command():
    assert {path.name for path in (ROOT / "jobs").glob("*.py")} == set(BY_JOB)
    for job in BY_JOB:
        assert f"\n## {job}\n" in MANUAL
        assert f"uv run jobs/{job} " in MANUAL


def test_the_reject_reasons_are_those_of_the_code():
    told = re.findall(r"^\| `(\w+)` \| (.*) \|$", MANUAL, flags=re.M)
    assert [row for row in told if row[0] in {reason.name for reason in REASONS}] == [
        (reason.name, reason.text) for reason in REASONS
    ]


def test_the_exit_codes_are_those_of_the_code():
    (table,) = re.findall(r"^\| exit code .*?\n\n", MANUAL, flags=re.M | re.S)
    names = ("DONE", "FAILED", "REFUSED", "UNEXPLAINED", "RETRACTION", "LOST_RACE", "REJECTED")
    assert re.findall(r"^\| (\d) ", table, flags=re.M) == [str(getattr(command, name)) for name in names]


def test_the_request_that_starts_a_job():
    """Its arguments are those of the job, and it names files that the section has just uploaded."""
    request = json.loads(REQUEST.text)
    assert request["clientToken"]
    assert re.fullmatch(r"esr-[\d.]+ \(Spark [\d.]+, Scala [\d.]+\)", request["releaseVersion"])
    submit = request["jobDriver"]["sparkSubmit"]
    given = parser_of(hourly_bill).parse_args(submit["entryPointArguments"])
    assert (given.usage_format, given.last, given.currency) == ("table", 48, "USD")
    build, *copies = UPLOAD.commands
    assert build == ["uv", "build", "--wheel", "&&", "cp", "dist/spark_billing-*.whl", "dist/spark_billing.zip"]
    uploaded = {to: what for _, _, what, to in copies}
    assert [words[:2] for words in copies] == [["ossutil", "cp"]] * len(copies)
    py_files, uploaded_zip, *settings = submit["sparkSubmitParameters"].split()
    assert (py_files, uploaded[uploaded_zip]) == ("--py-files", build[-1])
    assert settings[::2] == ["--conf"] * (len(settings) // 2)
    assert dict(setting.split("=") for setting in settings[1::2]) == {
        "spark.memory.offHeap.enabled": "true",
        "spark.memory.offHeap.size": "4g",
    }
    assert (ROOT / uploaded[submit["entryPoint"]]).is_file()


@pytest.mark.campaign
@pytest.mark.classic
def test_the_table_of_late_usage(spark, write, bill, tmp_path):
    """Each row of the table, played: what the run adds, why, and what is owed then."""
    (table,) = re.findall(r"^\| run \| what happened .*?\n\n", MANUAL, flags=re.M | re.S)
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    head = "model,region,min_input_tokens,max_input_tokens,input_price_per_1k,output_price_per_1k,currency"
    for name, price in (("old", "0.000138"), ("new", "0.000150")):
        (tmp_path / f"{name}.csv").write_text(f"{head}\nqwen-plus,cn-hangzhou,0,1M,{price},0.000344,USD\n")
    steps = [(2, "old"), (2, "old"), (3, "old"), (3, "new"), (2, "new"), (2, "new", "--allow-retractions")]
    assert len(told) == len(steps)
    number = 0
    for (run, _, adds, why, usd, owed), (calls, prices, *arguments) in zip(told, steps):
        usage = write([call(n, COMMERCIAL_START) for n in range(calls)], f"usage-{run}")
        code, _, _ = bill(usage, "--price-list", str(tmp_path / f"{prices}.csv"), *arguments)
        assert code == (4 if "exit code 4" in adds else 0)
        number += code == 0
        reasons = record(tmp_path / "out", number)["ledger"]["reasons"] if code == 0 else {}
        found = {f"`{reason}`" if reason == "original" else f"`adjustment`, `{reason}`" for reason in reasons}
        assert found == ({why} if why else set())
        assert sum(Decimal(counts["amount"]) for counts in reasons.values()) == Decimal(usd or 0)
        assert sum(b["amount"] for b in rows(spark, tmp_path / "out", "bills")) == Decimal(owed)
