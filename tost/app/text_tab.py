"""The Text tab: what a language model writes, what that costs, and who holds each token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from tost.app.chart import Line, chart
from tost.app.errors import kindly
from tost.app.image_tab import DRAW, layer_slider
from tost.app.limits import PROMPT_CHARACTERS
from tost.app.models import LanguageModel
from tost.app.painted import key, painted
from tost.app.stream import MAX_NEW_TOKENS, Text, Watch, begin, key_value_bytes, write

REDRAW_S = 0.25
PROMPT = "def "
POINTS = 200  # of a line in a chart


def text_tab(language: LanguageModel, work: dict[str, Any]) -> None:
    """Lay out the tab and connect it.  work: how gradio queues what computes."""
    config = language.model.config
    text = gr.State(None)
    with gr.Row(elem_classes="tost-row"):
        with gr.Column(scale=4, min_width=300):
            gr.HTML(f"<p class='tost-lead'><b>{escape(language.name)}</b>: {language.told}</p>")
            prompt, count, heat, seed = controls()
            with gr.Row():
                go = gr.Button("Write", variant="primary", elem_id="write")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=7, min_width=320):
            tiles = gr.HTML(draw_tiles(config, None), elem_id="tiles")
            layer = layer_slider(config.num_hidden_layers, config.num_hidden_layers, "text-layer")
            gr.HTML(key(config, config.num_attention_heads))
            page = gr.HTML(painted(Text()), elem_id="painted", max_height=420, autoscroll=True)
            costs = gr.HTML(draw_costs(config, None), elem_id="costs")
    stream, repaint = handlers(language)
    options: dict[str, Any] = {**work, "show_progress": "hidden"}
    given, shown = [prompt, count, heat, seed, layer], [text, tiles, page, costs]
    writing = gr.on([go.click, prompt.submit], kindly(stream), given, shown, trigger_mode="once", **options)
    stop.click(None, cancels=[writing])
    layer.change(kindly(repaint), [text, layer], page, trigger_mode="always_last", **work | DRAW)


def controls() -> tuple[gr.Textbox, gr.Slider, gr.Slider, gr.Number]:
    """What to write on from, how much and how boldly."""
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_lines=8, max_length=PROMPT_CHARACTERS, elem_id="prompt")
    count = gr.Slider(16, MAX_NEW_TOKENS, 300, step=1, label="Tokens to write", buttons=[], elem_id="count")
    told = "0 = always the likeliest token"
    heat = gr.Slider(0, 1.5, 0.8, step=0.05, label="Temperature", info=told, buttons=[], elem_id="heat")
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31, elem_id="seed")
    return prompt, count, heat, seed


def handlers(language: LanguageModel) -> tuple[Any, Any]:
    """What the button and the layer slider do."""
    config = language.model.config

    def shown(found: Text) -> list[Any]:
        return [found, draw_tiles(config, found), painted(found), draw_costs(config, found)]

    def stream(prompt: str, count: int, heat: float, seed: int, layer: int) -> Iterator[list[Any]]:
        found = begin(language.model, language.tokenizer, prompt)
        found.layer = int(layer) - 1
        watch, drawn = Watch(language.model, found), 0.0
        for _ in write(language.model, language.tokenizer, found, int(count), float(heat), int(seed or 0)):
            if time.monotonic() - drawn >= REDRAW_S:
                watch.catch_up()
                drawn = time.monotonic()
                yield shown(found)
        watch.catch_up()
        yield shown(found)

    def repaint(found: Text | None, layer: int) -> str:
        if found is not None:
            found.layer = int(layer) - 1  # a text that is still being written goes on in this layer's colours
        return painted(found or Text())

    return stream, repaint


def draw_tiles(config: Any, text: Text | None) -> str:
    """The numbers at a glance."""
    tokens = len(text.ids) if text else 0
    times = text.milliseconds() if text and text.times else []
    kept = text.kept[-1] if text and text.kept else 0
    facts = [
        (f"{tokens:,}", "tokens so far, the prompt included"),
        (kilobytes(kept) if kept else "–", "kept between two tokens, measured"),
        (f"{times[-1]:.1f} ms" if times else "–", "for the last tokens, each"),
        (kilobytes(key_value_bytes(config, tokens)) if tokens else "–", "GPT-2 of this size would keep, computed"),
    ]
    cells = "".join(f"<div class='tost-tile'><b>{value}</b><span>{what}</span></div>" for value, what in facts)
    return f"<div class='tost-tiles'>{cells}</div>"


def draw_costs(config: Any, text: Text | None) -> str:
    """What is kept, and the time of a token, over the tokens."""
    if text is None or not text.kept:
        return ""
    tokens = range(text.given + 1, len(text.ids) + 1)
    keep = range(0, len(tokens), len(tokens) // POINTS + 1)
    ours = [(tokens[i], text.kept[i] / 1000) for i in keep]
    theirs = [(tokens[i], key_value_bytes(config, tokens[i]) / 1000) for i in keep]
    times = text.milliseconds()
    kept = chart(
        [Line("this model", ours, 0), Line("keys and values of a GPT-2, computed", theirs, 1, dashed=True)],
        "Kept between two tokens",
        "tokens",
        told="A few sums a head, whatever the length; softmax attention keeps every token (here in float32).",
        unit=" kB",
    )
    taken = chart(
        [Line("this model", [(tokens[i], times[i]) for i in keep], 0)],
        "Time of a token",
        "tokens",
        told="The model's step alone, medians of nine tokens; painting takes its own time.",
        unit=" ms",
    )
    return f"<div class='tost-pair'>{kept}{taken}</div>"


def kilobytes(count: int) -> str:
    """Such as 18.6 kB or 1.2 MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
