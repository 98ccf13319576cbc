"""How the package hangs together: what it imports and when, its public face, and the checks by tools."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spark_billing
from tests.conftest import site_without

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "spark_billing"

# Each module may import only from those before it
ORDER = """
core.version core.errors core.money prices.price_list core.schemas core.hours core.text prices.price_arrays
prices.pandas_udfs prices.udfs usage.calls prices.sql_functions prices.price_rows usage.checks bills.lines
ledger.difference ledger.conflicts usage.repeats core.storage usage.files core.session bills.metering ledger.records
ledger.files bills.control_totals ledger.run reports.run_summary ledger.reading estimates.rerating provider.mapping
provider.causes ledger.catalog focus.rows focus.rules focus.files estimates.answers estimates.token_ratios
estimates.tokenizer estimates.estimate estimates.printed reports.breakdown estimates.expected reports.statement
reports.html reports.statement_files reports.charts reports.report reports.report_page commands.command
commands.files commands.arguments commands.ledger_arguments commands.hourly_bill commands.bill_history
commands.rerate commands.estimate_cost commands.reconcile_bill commands.export_focus commands.sql commands.statement
commands.report commands.cli commands.demo_provider commands.demo ledger.streaming
""".split()  # noqa: SIM905 - quoted one by one they would read worse
ROOMS = [f"{path.parent.name}.__init__" for path in PACKAGE.glob("*/__init__.py")]
LATER_ON_PURPOSE = {("commands.hourly_bill", "commands.demo")}  # --demo runs the demo, which runs the job


def imports(module):
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("spark_billing"):
            named = node.module.partition(".")[2]
            if (PACKAGE / named.replace(".", "/")).is_dir():  # a module of a room
                yield from (f"{named}.{alias.name}".lstrip(".") for alias in node.names)
            else:
                yield named
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.startswith("spark_billing."))


def test_every_module_has_its_place():
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    assert sorted(".".join(path.parts) for path in paths) == sorted([*ORDER, "__init__", *ROOMS])


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module):
    before = ORDER[: ORDER.index(module)]
    for imported in imports(module):
        assert imported in before or (module, imported) in LATER_ON_PURPOSE, f"{module} imports {imported}"


def python(code, *options, **environment):
    command = [sys.executable, *options, "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.classic
def test_importing_starts_nothing_and_changes_nothing():
    result = python(
        "import os, sys, logging, warnings, decimal\n"
        "import pyspark.sql.functions\n"  # which does change some of these
        "before = (dict(os.environ), list(logging.root.handlers), list(warnings.filters), decimal.getcontext().prec)\n"
        "import spark_billing\n"
        "after = (dict(os.environ), list(logging.root.handlers), list(warnings.filters), decimal.getcontext().prec)\n"
        "assert before == after\n"
        "from pyspark import SparkContext\n"
        "assert SparkContext._gateway is None and SparkContext._active_spark_context is None\n"
        "assert not {'spark_billing.prices.udfs', 'spark_billing.prices.price_arrays'} & set(sys.modules)\n"
        "from spark_billing import model_call_cost, PriceList\n"
        "model_call_cost(PriceList.bundled('emr-serverless-spark', currency='USD'))\n"  # a UDF needs no session either
        "assert SparkContext._gateway is None\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.classic
@pytest.mark.own_spark
def test_the_default_path_needs_neither_numpy_nor_pandas_nor_pyarrow(tmp_path):
    site = site_without(tmp_path / "site", "numpy", "pandas", "pyarrow")
    result = python(
        "from spark_billing.commands.hourly_bill import hourly_bill\n"
        f"assert hourly_bill(['--demo', '--output', {str(tmp_path / 'demo')!r}]) == 0\n"
        "refused = ['--usage', 'u', '--output', 'o', '--currency', 'USD', '--pricing', 'udf']\n"
        "assert hourly_bill(refused) == 2\n",
        "-S",
        PYTHONPATH=str(site),
    )
    assert result.returncode == 0, result.stderr
    assert "needs pyarrow" in result.stdout
    assert "--pricing udf needs pyarrow" in result.stderr


def test_the_public_names():
    assert spark_billing.__all__ == sorted(spark_billing.__all__)
    for name in spark_billing.__all__:
        assert inspect.getdoc(getattr(spark_billing, name)), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = spark_billing.nothing


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("bill_lines", "(checked: 'DataFrame', *, prices: 'PriceList', group_by_tags: 'Sequence[str]' = (), "
                       "pricing: 'Pricing' = 'native') -> 'DataFrame'"),
        ("bill_history", "(spark: 'SparkSession', output: 'str', *, workspace_id: 'str', hour: 'str') -> 'DataFrame'"),
        ("ledger_lines", "(spark: 'SparkSession', output: 'str', *, start: 'Optional[str]' = None, "
                         "end: 'Optional[str]' = None) -> 'DataFrame'"),
        ("monthly_statement", "(lines: 'DataFrame', month: 'str', *, as_of: 'Optional[str]' = None, "
                              "closed_after: 'int' = 48, top: 'int' = 20) -> 'Statement'"),
        ("provider_bill", "(bill: 'DataFrame', mapping: 'BillMapping') -> 'DataFrame'"),
        ("read_bill", "(spark: 'SparkSession', path: 'str', file_format: 'Optional[str]' = None) -> 'DataFrame'"),
        ("reconcile", "(lines: 'DataFrame', provider: 'DataFrame', *, prices: 'PriceList', grain: 'str', "
                      "other_lines: 'Optional[DataFrame]' = None, decimals: 'int' = 10, tokens_tolerance: 'int' = 0) "
                      "-> 'DataFrame'"),
        ("rerate", "(usage: 'DataFrame', *, prices: 'PriceList', other: 'PriceList', duplicates: 'bool' = True) "
                   "-> 'DataFrame'"),
        ("estimate_calls", "(df: 'DataFrame', *, text: 'StrOrColumn', model: 'StrOrColumn', region: 'StrOrColumn', "
                           "output_tokens: 'OutputTokens', prices: 'PriceList', at: 'Optional[datetime]' = None, "
                           "tokens: 'str' = 'ratio', one_in: 'int' = 1) -> 'Estimate'"),
        ("learn_output", "(usage: 'DataFrame', *, workspace_id: 'str', model: 'str') -> 'OutputPerInput'"),
        ("check_focus", "(frame: 'DataFrame', version: 'str' = '1.2') -> 'list[BrokenRule]'"),
        ("bill_touched_hours", "(prices: 'PriceList', *, usage: 'str', output: 'str', "
                               "usage_format: 'Optional[str]' = None, columns: 'Optional[Mapping[str, str]]' = None, "
                               "call_time_zone: 'Optional[str]' = None, duplicates: 'bool' = True, "
                               "dedup_lookback: 'int' = 24, **options: 'Any') "
                               "-> 'Callable[[DataFrame, int], None]'"),
        ("sql_function_ddl", "(prices: 'PriceList', *, namespace: 'Optional[str]' = None, prefix: 'str' = '') "
                             "-> 'list[str]'"),
        ("check_usage", "(usage: 'DataFrame', *, prices: 'PriceList', duplicates: 'bool' = True) -> 'DataFrame'"),
        ("hourly_bills", "(lines: 'DataFrame') -> 'DataFrame'"),
        ("model_call_cost", "(prices: 'PriceList') -> 'CallUdf'"),
        ("model_call_tier", "(prices: 'PriceList') -> 'CallUdf'"),
        ("price_calls", "(usage: 'DataFrame', *, prices: 'PriceList') -> 'DataFrame'"),
        ("register", "(spark: 'SparkSession', prices: 'PriceList') -> 'None'"),
        ("to_focus", "(lines: 'DataFrame', *, billing_account_id: 'str', billing_account_name: 'Optional[str]' = None, "
                     "invoice_issuer: 'str' = 'Alibaba Cloud', version: 'str' = '1.2', closed_months: 'ClosedMonths' "
                     "= (), invoice_ids: 'Optional[Mapping[str, str]]' = None, invoice_detail_ids: "
                     "'Optional[Mapping[str, str]]' = None, tags: 'Optional[Mapping[str, str]]' = None, region_names: "
                     "'Optional[Mapping[str, str]]' = None) -> 'DataFrame'"),
        ("PriceList.bundled", "(name: 'str', *, currency: 'str', tokens_per_k: 'int' = 1000, "
                              "version: 'Optional[str]' = None) -> 'PriceList'"),
        ("PriceList.from_csv", "(path: 'object', *, tokens_per_k: 'int' = 1000, "
                               "version: 'Optional[str]' = None) -> 'PriceList'"),
    ],
)  # fmt: skip
def test_public_signatures(name, signature):
    found = spark_billing
    for part in name.split("."):
        found = getattr(found, part)
    assert str(inspect.signature(found)) == signature


def test_the_top_level_is_the_owners():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {name.partition("/")[0] for name in listed if name}
    assert {name for name in top if not name.startswith(".")} <= {
        "pyproject.toml",
        "README.md",
        "spark_billing",
        "jobs",
        "tests",
    }


@pytest.mark.linters
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("vermin", "--target=3.9-", "--violations", "--no-tips", "--eval-annotations", "spark_billing", "jobs"),
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_tools(command):
    tool = Path(sys.executable).with_name(command[0])
    result = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
