"""Plots that are drawn into a page as SVG, in the colours of its text and background."""

import html
import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's colour of text
_WIDTH, _HEIGHT = 4.2, 3.0  # [inch]; narrow enough for a phone

COLOURS = ("#2f7fd8", "#e0762c", "#3aa35a", "#b04bc4", "#c9a40c", "#d6455c")  # legible on light and dark


def small_figure(height: float = _HEIGHT) -> Figure:
    """A figure of the width that plots have on a page [inch]."""
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def svg_of(figure: Figure, words: str) -> str:
    """The figure as an element of a page.

    Args:
        figure: With axes; their lines and text get the page's colour.
        words: What it shows, for those who can't see it.
    """
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(which="both", colors=INK, labelsize=8)
        axes.title.set(color=INK, fontsize=10)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, fontsize=9)
        for spine in axes.spines.values():
            spine.set(color=INK, alpha=0.4)
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.get_frame().set(facecolor="none", edgecolor="none")
            for text in legend.get_texts():
                text.set_color(INK)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": words}):  # names in a page must differ
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    written = buffer.getvalue()
    drawing = written[written.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bxmlns(:xlink)?="[^"]*"', "", drawing)  # HTML needs none, and pages name no host
    drawing = re.sub(r'\bid="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|Poly|legend)[^"]*"', "", drawing)
    shown = html.escape(words, quote=True)
    return f'<figure>{drawing.replace("<svg", f"""<svg role="img" aria-label="{shown}" """, 1)}</figure>'
