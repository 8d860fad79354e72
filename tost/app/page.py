"""The page: three tabs, one style, one queue."""

from __future__ import annotations

from typing import Any

import gradio as gr

from tost.analysis.style import DARK, LIGHT
from tost.app.image_tab import image_tab
from tost.app.models import LanguageModel, VisionModel
from tost.app.palette import SOFT
from tost.app.speed_tab import speed_tab
from tost.app.text_tab import text_tab

TITLE = "Token statistics at work"
LEAD = (
    "A transformer whose attention compares no two tokens: every layer sorts them into groups, sums a few numbers "
    "for each group and takes one step that makes them cheaper to code. Look inside."
)
# one job at a time computes; "private" keeps the functions out of the API
WORK: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1, "api_visibility": "private"}
WAITING = 16  # jobs in the queue, at most
CLEAN_S = (600, 1800)  # how often files older than this are removed
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def build(vision: VisionModel, language: LanguageModel) -> gr.Blocks:
    """The page of two models, not yet served."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEAN_S, fill_width=False) as blocks:
        gr.HTML(f"<div class='tost-head'><h1>{TITLE}</h1><p>{LEAD}</p></div>")
        with gr.Tab("Image", id="image"):
            image_tab(vision, WORK)
        with gr.Tab("Text", id="text"):
            text_tab(language, WORK)
        with gr.Tab("Speed", id="speed"):
            speed_tab(WORK)
    blocks.queue(max_size=WAITING, api_open=False, default_concurrency_limit=1)
    return blocks


def theme() -> Any:
    """gradio's base theme in the colours of our figures, with fonts that the reader's system has."""
    blue = gr.themes.Color(
        "#eef6fb", "#d6e9f5", "#add3eb", "#7db8dd", "#56a0d0", "#0072b2", "#00639b", "#005282", "#00426a", "#003454",
        "#00263e", name="tost",
    )  # fmt: skip
    base = gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="gray",
        radius_size="lg",
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return base.set(
        body_background_fill=LIGHT.ground,
        body_background_fill_dark=DARK.ground,
        body_text_color=LIGHT.text,
        body_text_color_dark=DARK.text,
        background_fill_primary=LIGHT.ground,
        background_fill_primary_dark=DARK.ground,
        block_background_fill=SOFT[0],
        block_background_fill_dark=SOFT[1],
        block_border_width="0px",
        block_border_width_dark="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_shadow="none",
        input_background_fill=LIGHT.ground,
        input_background_fill_dark=DARK.ground,
        border_color_primary=LIGHT.grid,
        border_color_primary_dark=DARK.grid,
        slider_color=LIGHT.series[0],
        slider_color_dark=DARK.series[0],
        button_primary_background_fill=LIGHT.series[0],
        button_primary_background_fill_hover="#00639b",
        button_primary_background_fill_dark=DARK.series[0],
        button_primary_background_fill_hover_dark="#7cc5ee",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#16181d",
    )
