"""The Image tab: a picture, its class, and what every layer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from tost.app.chart import Line, chart
from tost.app.errors import kindly
from tost.app.limits import TOLD, read_picture
from tost.app.look import MAX_SIDE, MAX_TOKENS, Look, look, usual_side
from tost.app.maps import attention_maps, membership_maps
from tost.app.models import VisionModel
from tost.app.photographs import photographs

DRAW: dict[str, Any] = {"concurrency_id": "draw", "concurrency_limit": 4, "show_progress": "hidden"}


def image_tab(vision: VisionModel, work: dict[str, Any]) -> None:
    """Lay out the tab and connect it.  work: how gradio queues what computes."""
    pictures = photographs(vision.classes)
    side = usual_side(vision.model, vision.recipe)
    looks = [see(vision, pictures[0][0], side, True) for _ in range(2 if pictures else 0)]  # the first one warms up
    first = looks[-1] if looks else None
    with gr.Row(elem_classes="tost-row"):
        with gr.Column(scale=4, min_width=300):
            gr.HTML(f"<p class='tost-lead'><b>{escape(vision.name)}</b>: {vision.told}</p>")
            gallery, upload = sources(pictures)
            classes = gr.Label(probabilities(first), num_top_classes=5, label="What it is", elem_id="classes")
            square, patches = sizes(side)
        with gr.Column(scale=7, min_width=320):
            layers = len(first.memberships) if first else vision.model.config.num_layers
            layer = layer_slider(layers, max(1, layers // 2), "layer")
            memberships = gr.HTML(draw_memberships(first, max(1, layers // 2)), elem_id="memberships")
            attention, rates = gr.HTML(draw_attention(first)), gr.HTML(draw_rates(first))
    image, seen = gr.State(pictures[0][0] if pictures else None), gr.State(first)
    shown = [seen, classes, memberships, attention, rates]
    pick, take, again = handlers(vision, pictures, len(shown))
    # gradio loses an event that is sent in the instant its stream of answers closes, until the next one is sent: a
    # second click must be sent even while the first seems unanswered
    options: dict[str, Any] = {**work, "show_progress": "minimal", "show_progress_on": [memberships]}
    given = [patches, square, layer]
    gallery.select(kindly(pick), given, [image, *shown], trigger_mode="multiple", **options)
    upload.upload(kindly(take), [upload, *given], [image, *shown, upload], **options)
    patches.change(kindly(again), [image, *given], shown, trigger_mode="always_last", **options)
    square.input(kindly(again), [image, *given], shown, trigger_mode="multiple", **options)
    layer.change(kindly(draw_memberships), [seen, layer], memberships, trigger_mode="always_last", **work | DRAW)


def sources(pictures: Sequence[tuple[Any, str]]) -> tuple[gr.Gallery, gr.File]:
    """Where a picture comes from."""
    gallery = gr.Gallery(
        list(pictures),
        label="Pictures to begin with",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        buttons=[],
        interactive=False,
        visible=bool(pictures),
        elem_id="pictures",
    )
    upload = gr.File(label="Or your own", height=132, file_types=["image"], elem_id="upload")
    gr.HTML(f"<p class='tost-lead tost-small'>{TOLD}.</p>")
    return gallery, upload


def sizes(side: int) -> tuple[gr.Checkbox, gr.Slider]:
    """How a picture is cut and into how many patches.  side: patches in training."""
    square = gr.Checkbox(True, label="The middle square alone, as in training", elem_id="square")
    told = f"{side} in training. Up to {MAX_TOKENS:,} patches in all; a larger picture is shrunk to that."
    label = "Patches along the short side"
    return square, gr.Slider(
        min(4, side), MAX_SIDE, side, step=1, label=label, info=told, buttons=[], elem_id="patches"
    )


def layer_slider(layers: int, value: int, name: str) -> gr.Slider:
    """Layers counted from 1; hidden where there is nothing to choose."""
    return gr.Slider(1, max(layers, 2), value, step=1, label="Layer", visible=layers > 1, buttons=[], elem_id=name)


def handlers(vision: VisionModel, pictures: Sequence[tuple[Any, str]], count: int) -> tuple[Any, Any, Any]:
    """What a chosen photograph, an upload and a moved slider do.  count: of the components that show a look."""

    def show(picture: Any, side: int, square: bool, layer: int) -> list[Any]:
        found = see(vision, picture, int(side), bool(square))
        return [found, probabilities(found), draw_memberships(found, layer), draw_attention(found), draw_rates(found)]

    def pick(side: int, square: bool, layer: int, event: gr.SelectData) -> list[Any]:
        picture = pictures[min(max(int(event.index), 0), len(pictures) - 1)][0]
        return [picture, *show(picture, side, square, layer)]

    def take(path: str, side: int, square: bool, layer: int) -> list[Any]:
        try:
            picture = read_picture(path)
        finally:
            Path(path).unlink(missing_ok=True)
        return [picture, *show(picture, side, square, layer), None]

    def again(picture: Any, side: int, square: bool, layer: int) -> list[Any]:
        return show(picture, side, square, layer) if picture is not None else [gr.skip()] * count

    return pick, take, again


def see(vision: VisionModel, picture: Any, side: int, square: bool) -> Look:
    """What the model does with a picture."""
    return look(vision.model, vision.recipe, vision.classes, picture, side, square)


def probabilities(found: Look | None) -> dict[str, float] | None:
    """For the bars, or nothing where the model has no classes."""
    return (found.probabilities or None) if found else None


def draw_memberships(found: Look | None, layer: int) -> str:
    """The maps of a layer, counted from 1."""
    if found is None:
        return "<p class='tost-lead'>Choose a picture, or upload one.</p>"
    names = list(found.memberships)
    if not names:
        return "<p class='tost-lead'>This model's mixer has no memberships to show.</p>"
    name = names[min(max(int(layer), 1), len(names)) - 1]
    maps = membership_maps(found.picture, found.memberships[name], found.grid)
    return (
        f"<div class='tost-card'><h3>Who holds what in layer {names.index(name) + 1} of {len(names)}</h3>"
        "<p>A head is a group: every patch is shared out among the heads, and its shares add up to 1. Black is the "
        "least and white the most that a head takes of a patch, from the first number to the second.</p>"
        f"{maps}</div>"
    )


def draw_attention(found: Look | None) -> str:
    """The maps of the class-attention blocks."""
    if found is None:
        return ""
    cards = []
    for number, weights in enumerate(found.attention.values(), 1):
        why = "<p>After the layers one token, [CLS], gathers from all patches by softmax attention.</p>"
        cards.append(
            f"<div class='tost-card'><h3>Where the class is read, class-attention block {number}</h3>"
            f"{why if number == 1 else ''}{attention_maps(weights, found.grid)}</div>"
        )
    return "".join(cards)


def draw_rates(found: Look | None) -> str:
    """The compression rate of every block."""
    if found is None or found.rates is None:
        return ""
    record, blocks = found.rates, range(1, len(found.rates.layers) + 1)
    before, mixed, after = (record.mean(stage) for stage in ("before", "mixed", "after"))
    levels = [Line("a block's output", list(zip(blocks, after.tolist())), 0, marks=True)]
    changes = [
        Line(name, list(zip(blocks, (100 * (rate / before.clamp_min(1e-12) - 1)).tolist())), place, marks=True)
        for name, rate, place in (("attention half", mixed, 4), ("whole block", after, 0))
    ]
    told = "Nats per token to code the patches group by group, in each block's own subspaces and units."
    less = "By how much a block changes the rate of its input. Attention is derived as a descent step on it."
    level = chart(levels, "Compression rate", "block", told=told, ticks=blocks)
    change = chart(changes, "Change within the block", "block", told=less, ticks=blocks, unit=" %")
    took = f"<p class='tost-lead tost-small'>{found.tokens:,} patches, all of this in {found.seconds:.2f} s.</p>"
    return f"<div class='tost-pair'>{level}{change}</div>{took}"
