"""Figures and reports: pictures with their numbers beside them."""

from tost.analysis.benchmark_figure import benchmark_figure
from tost.analysis.growth_figure import growth_figure
from tost.analysis.membership_figure import membership_figure
from tost.analysis.rate_figure import fallen, rate_figure
from tost.analysis.report import Report
from tost.analysis.style import DARK, LIGHT, Drawing, Theme, save_csv

__all__ = [
    "DARK",
    "LIGHT",
    "Drawing",
    "Report",
    "Theme",
    "benchmark_figure",
    "fallen",
    "growth_figure",
    "membership_figure",
    "rate_figure",
    "save_csv",
]
