"""The notebook from usage to bill to chart: its cells run, and show what the committed notebook shows.

After a change of a cell, render it anew:

    uv run --with nbconvert --with ipykernel jupyter nbconvert --to notebook --execute --inplace \
        tests/notebooks/usage_to_bill.ipynb
"""

import ast
import contextlib
import io
import json
from pathlib import Path

import matplotlib
import pytest

from tests.conftest import setting

pytestmark = [pytest.mark.classic, pytest.mark.spark4]  # it ends with SQL functions

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "usage_to_bill.ipynb"


def run(source, names):
    """Runs a cell as a notebook does; returns what it shows: the value of a last expression without a semicolon."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None if source.rstrip().endswith(";") else value


def rendered(cell, kind):
    """What the committed notebook shows below a cell: its tables, or what it printed."""
    texts = [
        output["text"] if output["output_type"] == "stream" else output["data"].get("text/html", "")
        for output in cell["outputs"]
        if (output["output_type"] == "stream") == (kind == "printed") and output.get("name") != "stderr"
    ]
    return "".join("".join(text) for text in texts)


def test_ten_short_cells_show_what_they_showed(spark):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10
    eager = "spark.sql.repl.eagerEval"
    kept = (f"{eager}.enabled", f"{eager}.truncate", "spark.sql.session.timeZone")
    names, tables, charts = {}, 0, 0
    with contextlib.ExitStack() as after:
        after.callback(spark.catalog.clearCache)
        for name in ("model_call_cost", "model_call_tier"):
            after.callback(spark.sql, f"DROP TEMPORARY FUNCTION IF EXISTS {name}")
        for name in kept:
            after.enter_context(setting(spark, name, spark.conf.get(name)))
        for cell in cells:
            source = "".join(cell["source"])
            assert source.count("\n") < 14
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                shown = run(source, names)
            html = "" if shown is None else shown._repr_html_()
            assert html == rendered(cell, "table"), source
            assert printed.getvalue() == rendered(cell, "printed"), source
            images = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
            assert len(images) == len(pyplot.get_fignums()), source
            tables, charts = tables + bool(html), charts + len(images)
            for number in pyplot.get_fignums():
                pyplot.figure(number).canvas.draw()
            pyplot.close("all")
    assert (tables, charts) == (6, 2)
