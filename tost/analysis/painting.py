"""Memberships by token, painted on the text: HTML with a choice of layers, without scripts."""

# N tokens, H heads

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

from tost.analysis.pictures import head_colour, rgb, span
from tost.analysis.report import Markup
from tost.analysis.style import LIGHT

PALE, FULL = 0.08, 0.75  # opacity of a token whose strongest share is the layer's least, and its most

CSS = """
.painted { margin: 1.4rem 0; } .painted > input { position: absolute; opacity: 0; }
.painted > label { display: inline-block; padding: 0.15rem 0.7rem; margin: 0 0.3rem 0.4rem 0; border-radius: 999px;
  background: var(--soft); font-size: 0.88rem; cursor: pointer; }
.painted > input:checked + label { background: var(--accent); color: var(--ground); }
.painted > input:focus-visible + label { outline: 2px solid var(--text); }
.painted .layer { display: none; background: var(--soft); border-radius: 10px; padding: 0.9rem 1.1rem;
  overflow-wrap: anywhere; white-space: pre-wrap;
  font: 0.88rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.painted .layer span { border-radius: 3px; padding: 0.12em 0; }
.painted .key { color: var(--quiet); font-size: 0.88rem; margin: 0.2rem 0 0.6rem; }
.painted .key i { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 3px; margin: 0 0.35em 0 0.9em;
  vertical-align: -0.1em; }
"""


def painted_text(tokens: Sequence[str], memberships: Mapping[str, Tensor], name: str = "text") -> Markup:
    """One span for each token on the colour of its strongest head, the stronger the larger that head's share.

    tokens: N strings.  memberships: layer -> [N, H].  Radio buttons choose the layer. The colour's strength runs from
    the layer's least strongest share to its most; hovering over a token tells its own.
    Raises ValueError if a layer has another number of tokens.
    """
    for layer, pi in memberships.items():
        if pi.ndim != 2 or len(pi) != len(tokens):
            raise ValueError(
                f"painted_text expects memberships of shape [{len(tokens)}, heads], got {list(pi.shape)} for {layer}"
            )
    name = escape(name, quote=True)
    heads = next(iter(memberships.values())).shape[1]
    key = "".join(f"<i style='background:{head_colour(LIGHT, head)}'></i>head {head + 1}" for head in range(heads))
    buttons, layers, rules = [], [], []
    for number, (layer, pi) in enumerate(memberships.items()):
        ident, on = f"{name}-{number}", " checked" if number == 0 else ""
        label = f"<label for='{ident}'>{escape(layer)}</label>"
        buttons.append(f"<input type='radio' name='{name}' id='{ident}'{on}>{label}")
        layers.append(f"<div class='layer' id='{ident}-layer'>{_spans(tokens, pi)}</div>")
        rules.append(f"#{ident}:checked ~ #{ident}-layer {{ display: block; }}")
    style = f"<style>{CSS}{chr(10).join(rules)}</style>"
    return Markup(f"{style}<div class='painted'>{''.join(buttons)}<div class='key'>{key}</div>{''.join(layers)}</div>")


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token stands for, line ends made visible; part of a character is a replacement sign."""
    texts = [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]
    return [text.replace("\r", "").replace("\n", "\u21b5\n") for text in texts]


def _spans(tokens: Sequence[str], pi: Tensor) -> str:
    shares, heads = pi.float().max(1)
    low, high = float(shares.min()), float(shares.max())
    note = f"<p class='key'>strongest share {span(low, high)}</p>"
    strength = ((shares - low) / max(high - low, 1e-12)).tolist()
    return note + "".join(
        f"<span style='background:{_tint(head, PALE + (FULL - PALE) * level)}' "
        f"title='head {head + 1}: {share:.3f}'>{escape(token)}</span>"
        for token, head, share, level in zip(tokens, heads.tolist(), shares.tolist(), strength)
    )


def _tint(head: int, opacity: float) -> str:
    red, green, blue = (round(255 * part) for part in rgb(head_colour(LIGHT, head)))
    return f"rgba({red},{green},{blue},{opacity:.2f})"
