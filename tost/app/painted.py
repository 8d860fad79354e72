"""A text in HTML, every token in the colour of the head that takes most of it."""

# N tokens, H heads

from __future__ import annotations

from html import escape

from torch import Tensor

from tost.app.palette import head_colour, rgb
from tost.app.stream import Text

STRONGEST = 0.75  # opacity of a token that belongs to one head alone


def painted(text: Text) -> str:
    """The text; a token's colour is that of the strongest head in text.layer, the fuller the more it exceeds 1 / H.

    Tokens that nobody watched yet have no colour.
    """
    layers = list(text.shares.values())
    shares = layers[min(text.layer, len(layers) - 1)] if layers else None
    parts = []
    for index, piece in enumerate(text.pieces):
        style, title = ("", "")
        if shares is not None and index < len(shares):
            style, title = tint(shares[index]), told(shares[index])
        given = " class='given'" if index < text.given else ""
        parts.append(f"<span{given}{style}{title}>{escape(piece)}</span>" if piece else "")
    return f"<div class='tost-text' role='log' aria-label='the text'>{''.join(parts)}</div>"


def tint(share: Tensor) -> str:
    """The background of a token with Pi [H]."""
    heads, head = len(share), int(share.argmax())
    excess = (float(share[head]) - 1 / heads) / (1 - 1 / heads) if heads > 1 else 1.0
    red, green, blue = rgb(head_colour(head))
    return f" style='background:rgba({red},{green},{blue},{STRONGEST * max(excess, 0.0) ** 0.5:.2f})'"


def told(share: Tensor) -> str:
    """What stands beside a token under the pointer."""
    parts = ", ".join(f"head {i + 1}: {float(part):.0%}" for i, part in enumerate(share))
    return f" title='{parts}'"


def key(config: object, heads: int) -> str:
    """The colours of the heads, with their half-lives where they have any."""
    half_lives = getattr(config, "half_lives", None) or []
    parts = []
    for head in range(heads):
        life = half_lives[head % len(half_lives)] if half_lives else None
        memory = "" if life is None else f" <em>half-life {life:g} tokens</em>" if life else " <em>never forgets</em>"
        parts.append(f"<span><i style='background:{head_colour(head)}'></i>head {head + 1}{memory}</span>")
    return f"<div class='tost-key'>{''.join(parts)}</div>"
