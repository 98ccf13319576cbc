"""Charts as SVG that stands inside a page: drawn by matplotlib, coloured by the page, in a wide and a narrow form.

matplotlib is imported when the first chart is drawn. No name from the data goes through it: labels are drawn as
placeholders, which takes care of `$`, of scripts its fonts lack and of whatever else a name may hold.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Callable
from unicodedata import east_asian_width
from xml.etree import ElementTree

from spark_billing.core.errors import UsageError
from spark_billing.core.text import printable

# In the drawing a colour stands for the page's colour of that name, which follows light, dark and paper
_COLOURS = {"#0000a1": "ink", "#0000a2": "muted", "#0000a3": "line", "#0000a4": "accent", "#0000a5": "band"}
_INK, _MUTED, _LINE, _ACCENT, _BAND = _COLOURS
_SVG_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "spark_billing", "path.simplify": False, "font.size": 11}
_FRACTION = re.compile(r"[0-9]+\.[0-9]+")  # of a point, of which a tenth is finer than any screen
_FORMS = {"wide": (880, 10), "narrow": (340, 4)}  # width in points, and how many labels fit below

Draw = Callable[[Any, int], Mapping[str, str]]  # onto axes, so many labels; what stands for its placeholders


def require_matplotlib() -> None:
    """`UsageError` if the charts cannot be drawn."""
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the report draws its charts with matplotlib, which is missing here ({error}): "
            "pip install 'spark_billing[report]'"
        ) from None


def columns(what: str, heights: Sequence[Decimal], labels: Sequence[str], told: Sequence[str]) -> Iterator[str]:
    """A column for each day or so; `told` is what each says when pointed at."""

    def draw(axes: Any, fitting: int) -> Mapping[str, str]:
        drawn = axes.bar(range(len(heights)), [float(height) for height in heights], width=0.72, color=_ACCENT)
        for n, column in enumerate(drawn.patches):
            column.set_gid(f"told-{n}")
        _along(axes, labels, range(len(heights)), fitting)
        return {f"told-{n}": text for n, text in enumerate(told)}

    return _figure(what, 230, draw)


def steps(what: str, heights: Sequence[Decimal], labels: Sequence[str]) -> Iterator[str]:
    """One stepped area, for so many hours that columns would blur."""

    def draw(axes: Any, fitting: int) -> Mapping[str, str]:
        values = [float(height) for height in heights]
        axes.stairs(values, fill=True, color=_ACCENT, linewidth=0)
        _along(axes, labels, [n + 0.5 for n in range(len(heights))], fitting)
        return {}

    return _figure(what, 200, draw)


def bars(what: str, names: Sequence[str], lengths: Sequence[Decimal], amounts: Sequence[str]) -> Iterator[str]:
    """A bar for each name, the name and the amount above it, so that both fit on a phone."""

    def draw(axes: Any, fitting: int) -> Mapping[str, str]:
        places = range(0, -len(names), -1)
        longest = max([float(length) for length in lengths] + [0.0]) or 1.0
        axes.barh(places, [longest] * len(names), height=0.2, color=_BAND)
        axes.barh(places, [max(float(length), 0.0) for length in lengths], height=0.2, color=_ACCENT)
        axes.set(xlim=(0, longest), ylim=(0.5 - len(names), 0.6), xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
        for n, place in enumerate(places):
            axes.text(0, place + 0.2, f"name-{n}", color=_INK, va="baseline")
            axes.text(longest, place + 0.2, f"amount-{n}", color=_INK, va="baseline", ha="right")
        return {
            **{f"name-{n}": cut_to_fit(name, 7 * fitting) for n, name in enumerate(names)},
            **{f"amount-{n}": amount for n, amount in enumerate(amounts)},
        }

    return _figure(what, 44 * len(names) + 8, draw, (0, 0))


def span(what: str, low: Decimal, middle: Decimal, high: Decimal, found: Decimal) -> Iterator[str]:
    """What was expected, as a band from low to high with a mark at its middle, and what was found."""

    def draw(axes: Any, fitting: int) -> Mapping[str, str]:
        edges = [float(edge) for edge in (low, middle, high, found)]
        reach = max(edges) * 1.05 or 1.0
        axes.barh([0], [edges[2] - edges[0]], left=edges[0], height=0.5, color=_BAND)
        axes.barh([0], [reach * 0.003], left=edges[1] - reach * 0.0015, height=0.5, color=_MUTED)
        axes.barh([0], [reach * 0.008], left=edges[3] - reach * 0.004, height=0.9, color=_ACCENT)
        axes.set(xlim=(0, reach), ylim=(-0.6, 0.6), yticks=[])
        _ticks(axes.xaxis, fitting // 2)
        return {}

    return _figure(what, 70, draw, (10, 24))


def _figure(what: str, height: int, draw: Draw, margins: tuple[int, int] = (52, 28)) -> Iterator[str]:
    yield "<figure>"
    for form, (width, fitting) in _FORMS.items():
        yield f"<div class={form}>{_svg(what, draw, width, height, fitting, margins)}</div>"
    yield "</figure>"


def _svg(what: str, draw: Draw, width: int, height: int, fitting: int, margins: tuple[int, int]) -> str:
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SVG_SETTINGS):  # for this chart alone, whatever a notebook has set
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        left, bottom = margins[0] / width, margins[1] / height
        axes = figure.add_axes((left, bottom, 1 - left - 2 / width, 1 - bottom - 8 / height))
        axes.patch.set_visible(False)
        axes.tick_params(length=0, labelcolor=_MUTED)
        for side, spine in axes.spines.items():
            spine.set(visible=side == "bottom", color=_LINE)
        texts = draw(axes, fitting)
        for artist in axes.findobj():
            artist.set_clip_on(False)  # no clip paths: without them a chart needs no ids, which others could share
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), what, texts)


def _along(axes: Any, labels: Sequence[str], places: Sequence[float], fitting: int) -> None:
    """Some of the labels below, amounts and lines to the left, and nothing lower than 0."""
    labelled = [n for n, label in enumerate(labels) if label]
    labelled = labelled[:: -(-len(labelled) // fitting) or 1]
    axes.set_xticks([places[n] for n in labelled], [labels[n] for n in labelled])
    axes.tick_params(axis="x", pad=8)  # clear of the lowest amount
    axes.set_xlim(-0.5 + places[0] % 1, len(labels) - 0.5 + places[0] % 1)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] if axes.dataLim.y1 > 0 else 1.0)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    _ticks(axes.yaxis, 4)


def cut_to_fit(name: str, width: int) -> str:
    """A name cut to so many columns, of which wide letters take two."""
    columns = [2 if east_asian_width(letter) in "WF" else 1 for letter in printable(name, width)]
    kept = next((n for n in range(len(columns) + 1) if sum(columns[: n + 1]) > width), len(columns))
    return printable(name, max(kept, 1))


def _ticks(axis: Any, count: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(count))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _inline(svg: str, what: str, texts: Mapping[str, str]) -> str:
    """The drawing as a part of a page: the page's colours and type, no ids, and texts instead of placeholders."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        told = texts.get(element.attrib.pop("id", ""))
        if told is not None:
            _title(element, told)
        style = element.attrib.pop("style", "")
        if element.tag == "text":
            element.text = texts.get((element.text or "").strip(), element.text)
            style = _text_style(style)
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, _FRACTION.sub(lambda number: f"{float(number[0]):.1f}", element.attrib[name]))
        for drawn, colour in _COLOURS.items():
            style = style.replace(drawn, f"var(--{colour})")
        if style:
            element.set("style", style)
    for kind in ("metadata", "defs"):
        for element in root.findall(kind):
            root.remove(element)
    _title(root, what)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": what})
    _slim(root)
    return ElementTree.tostring(root, encoding="unicode", method="html")


def _slim(element: ElementTree.Element) -> None:
    """Without blanks between elements, empty groups and rotations by nothing: half the size."""
    element.tail = None
    if element.tag != "text" and element.tag != "title":
        element.text = None
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for child in list(element):
        _slim(child)
        if child.tag == "g" and not len(child):
            element.remove(child)


def _title(element: ElementTree.Element, text: str) -> None:
    title = ElementTree.Element("title")
    title.text = text
    element.insert(0, title)


def _text_style(style: str) -> str:
    """matplotlib names its own fonts; here the page's is used, each text with a direction of its own."""
    size = re.search(r"([0-9.]+)px", style)
    kept = [part.strip() for part in style.split(";") if part.strip().startswith(("text-anchor", "fill"))]
    return "; ".join([f"font-size: {size[1] if size else 11}px", "unicode-bidi: isolate", *kept])
