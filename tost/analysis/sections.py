"""The sections that vision and language runs share."""

from __future__ import annotations

from typing import Any

from tost.analysis.gather import Overview
from tost.analysis.heads_figure import heads_figure
from tost.analysis.incoherence import coherence_figure, coherences, matrices_figure
from tost.analysis.objective_figure import objective_figure
from tost.analysis.parameter_figure import layer_means, parameter_figure, read_parameters
from tost.analysis.rate_figure import fallen, rate_figure
from tost.analysis.recorders import mixing_blocks
from tost.analysis.results import Figure, Section, Table
from tost.analysis.spectrum_figure import spectrum_figure

PARAMETERS = "parameters.csv"
NAMED = {
    "temperature": "temperature (range over heads)",
    "gamma1": "LayerScale, attention",
    "gamma2": "LayerScale, MLP",
}


def common_sections(subject: Any, found: Overview) -> dict[str, Section]:
    """rates, heads, subspaces (of models with memberships), spectrum and parameters."""
    sections: dict[str, Section] = {}
    if found.rates:
        sections["rates"] = _rates(found)
        sections["heads"] = _heads(found)
        sections["subspaces"] = _subspaces(subject)
    sections["spectrum"] = _spectrum(found)
    parameters = _parameters(subject)
    return sections | ({"parameters": parameters} if parameters.parts else {})


def _rates(found: Overview) -> Section:
    told = "; ".join(
        f"{name}: {fallen(record)} of {len(record.layers)} blocks lower it, {fallen(record, 'mixed')} by attention"
        for name, record in found.rates.items()
    )
    counts = ", ".join(f"{record.after.shape[1]} {name}" for name, record in found.rates.items())
    first = next(iter(next(iter(found.sums.values())).layers.values()))
    text = (
        "The attention half of a block is derived as a descent step on the variational compression rate of its tokens "
        f"in the heads' subspaces. Whether training kept it so is measured here, on samples of every set ({counts}). "
        f"{told}."
    )
    rates = Figure(
        "rates",
        rate_figure(found.rates, found.exact()),
        "Left: variational rate of every block's output, mean and one standard deviation over samples; dotted the "
        "exact rate for the same memberships, which it can't go below (Theorem 1): the gap says how correlated "
        "the heads' features are. Right: change against the block's input, after the attention half and after the "
        "whole block. Each block is measured in its own subspaces, so levels compare within a block.",
    )
    objective = Figure(
        "objective",
        objective_figure(found.sums),
        "The objective of maximal coding rate reduction on the normalised tokens of every block's output (eps 0.5), "
        f"with exact R_c for the block's memberships, on the first {sum(map(len, first.coding))} samples of every set: "
        "R of all tokens, R_c of the groups, and how much the grouping saves.",
    )
    return Section("What the layers compress", text, [rates, objective])


def _heads(found: Overview) -> Section:
    text = (
        "exp of the entropy of a token's memberships is the number of heads that it effectively belongs to: 1 if one "
        "head has it to itself, H if all have the same share."
    )
    caption = "Means over all tokens of the samples; the band is one standard deviation over tokens."
    return Section("How many heads share a token", text, [Figure("heads", heads_figure(found.sums), caption)])


def _subspaces(subject: Any) -> Section:
    trained, untrained = coherences(subject.model), coherences(subject.untrained())
    text = (
        "The derivation takes the heads' subspaces as orthogonal bases; training does not force them to be. Columns of "
        "U are the rows of the input projection, head by head, scaled to unit length."
    )
    matrices = Figure(
        "incoherence",
        matrices_figure(trained),
        "Absolute cosine of every two columns, up to 0.5 (the diagonal is 1); white lines part the heads. Where it "
        "is dark off the diagonal blocks, two heads' subspaces are nearly incoherent.",
    )
    curve = Figure(
        "coherence",
        coherence_figure(trained, untrained),
        "Mean absolute cosine between columns of different heads and within a head, a column with itself left out. The "
        "dotted line is what independent random directions have.",
    )
    return Section("Subspaces", text, [matrices, curve])


def _spectrum(found: Overview) -> Section:
    tokens = ", ".join(
        f"{next(iter(sums.layers.values())).features.count:,} {name}" for name, sums in found.sums.items()
    )
    text = (
        "Singular values of the centred features after every block, over all tokens of the samples together "
        f"({tokens}). Their effective rank is exp of the entropy of the values scaled to sum to one."
    )
    caption = "Singular values relative to the largest (those under 1e-6 drawn there); the effective rank over blocks."
    return Section("Features", text, [Figure("spectrum", spectrum_figure(found.sums), caption)])


def _parameters(subject: Any) -> Section:
    """Curves over training from the run's parameters.csv, and the final values from its weights."""
    section = Section("Temperature and LayerScale", "", [])
    path = subject.run / PARAMETERS
    drawing = parameter_figure(read_parameters(path)) if path.is_file() else None
    if drawing is not None:
        section.text = "Learned scales of every block. The curves were written while the run trained."
        caption = "Mean over heads (temperature) or features (LayerScale) of every block over the steps of training."
        section.parts.append(Figure("parameters", drawing, caption))
    else:
        why = f"has no {PARAMETERS}" if not path.is_file() else f"has fewer than two steps in its {PARAMETERS}"
        section.text = f"The run {why}, so there are no curves over training; these are the final values."
    rows = final_values(subject.model)
    if rows:
        section.parts.append(_final_table(rows))
    return section


def final_values(model: Any) -> list[dict[str, Any]]:
    """{"kind", "layer", "head", "value"} of every block's temperature by head and mean absolute LayerScale."""
    rows: list[dict[str, Any]] = []
    for number, block in enumerate(mixing_blocks(model).values(), 1):
        for kind, parameter in (
            ("temperature", getattr(block.mixer, "temperature", None)),
            ("gamma1", getattr(block, "gamma1", None)),
            ("gamma2", getattr(block, "gamma2", None)),
        ):
            if parameter is None:
                continue
            values = parameter.detach().float().cpu()
            found = enumerate(values.tolist()) if kind == "temperature" else [(None, float(values.abs().mean()))]
            rows += [{"kind": kind, "layer": number, "head": head, "value": value} for head, value in found]
    return rows


def _final_table(rows: list[dict[str, Any]]) -> Table:
    kinds = [kind for kind in ("temperature", "gamma1", "gamma2") if any(r["kind"] == kind for r in rows)]
    by_kind = {kind: layer_means([{**r, "step": 0} for r in rows if r["kind"] == kind]) for kind in kinds}
    layers = sorted({r["layer"] for r in rows})
    shown = []
    for layer in layers:
        cells = [f"{by_kind[kind].get((layer, 0), float('nan')):.3g}" for kind in kinds]
        if "temperature" in kinds:
            values = [r["value"] for r in rows if (r["kind"], r["layer"]) == ("temperature", layer)]
            cells[0] += f" ({min(values):.3g} to {max(values):.3g})" if values else ""
        shown.append([f"block {layer}", *cells])
    return Table("final_parameters", rows, ["", *(NAMED[kind] for kind in kinds)], shown)
