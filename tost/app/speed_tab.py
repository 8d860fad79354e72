"""The Speed tab: the operator beside softmax attention, measured while you watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from tost.app.errors import kindly
from tost.app.image_tab import DRAW
from tost.app.race import BYTES, CALL_S, FEWEST, MOST, SHAPE, charts, progress, race, table

LEAD = (
    f"One sequence, {SHAPE[0]} heads of {SHAPE[1]} features, forward, float32. Values are checked before anything is "
    "timed; contestants take turns, and each has its peak memory measured in a process of its own. A contestant sits "
    f"out where a call would take over {CALL_S:.0f} s or need over {BYTES / 2**30:.0f} GiB."
)


def speed_tab(work: dict[str, Any]) -> None:
    """Lay out the tab and connect it.  work: how gradio queues what computes."""
    gr.HTML(f"<p class='tost-lead'>{LEAD}</p>")
    with gr.Row(elem_classes="tost-row"):
        with gr.Column(scale=6, min_width=300):
            most = gr.Slider(FEWEST, MOST, 4096, step=FEWEST, label="Tokens, at most", buttons=[], elem_id="most")
        with gr.Column(scale=3, min_width=200):
            op = gr.Radio(
                [("whole sequence", "full"), ("causal", "causal")], value="full", label="Operator", elem_id="op"
            )
        with gr.Column(scale=3, min_width=200), gr.Row():
            go = gr.Button("Measure", variant="primary", elem_id="measure")
            stop = gr.Button("Stop", elem_id="stop-measuring")
    state = gr.HTML(elem_id="progress")
    picture = gr.HTML(elem_id="race")
    numbers = gr.HTML(elem_id="numbers")

    def measure(op: str, most: int) -> Iterator[list[Any]]:
        for found in race(op, int(most)):
            started = bool(found.result.records)
            pair = f"<div class='tost-pair'>{''.join(charts(found))}</div>" if started else ""
            yield [progress(found), pair, table(found) if started else ""]

    shown, options = [state, picture, numbers], {**work, "show_progress": "hidden"}
    measuring = go.click(kindly(measure), [op, most], shown, trigger_mode="once", **options)
    stop.click(lambda: "", None, state, cancels=[measuring], **work | DRAW)
