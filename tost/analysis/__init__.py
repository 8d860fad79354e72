"""Figures and reports: what a trained model does, as pictures with their numbers beside them."""

from tost.analysis.benchmark_figure import benchmark_figure
from tost.analysis.growth_figure import growth_figure
from tost.analysis.inside import analyze
from tost.analysis.membership_figure import membership_figure
from tost.analysis.painting import painted_text
from tost.analysis.rate_figure import fallen, rate_figure
from tost.analysis.report import Markup, Report
from tost.analysis.results import Analysis
from tost.analysis.style import DARK, LIGHT, Drawing, Theme, save_csv

__all__ = [
    "DARK",
    "LIGHT",
    "Analysis",
    "Drawing",
    "Markup",
    "Report",
    "Theme",
    "analyze",
    "benchmark_figure",
    "fallen",
    "growth_figure",
    "membership_figure",
    "painted_text",
    "rate_figure",
    "save_csv",
]
