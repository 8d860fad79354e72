"""Many independent streams through one causal model: steps in, class probabilities out, a state of fixed size each."""

# S streams, M slots, n steps, F numbers of a step, C features, K classes

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.models.sequence import SequenceState, ToSTSequence
from tost.models.series import as_steps, fill_gaps, of_similar_length, refuse_gaps
from tost.models.stream_files import read_streams, write_streams
from tost.nn.states import map_state, state_tensors

GAPS = ("refuse", "hold")


class Reading(NamedTuple):
    """What a stream says after its last step, or after each step of a push.

    features: [C] or [n, C], of the step.  logits: [K] or [n, K], of the stream so far (of the step, with per_token; the
    pooled features, without a classifier).
    """

    features: Tensor
    logits: Tensor

    @property
    def probabilities(self) -> Tensor:
        """[K] or [n, K], of the classes."""
        return self.logits.softmax(-1)


class Streaming:
    """Streams by name through a causal ToSTSequence, any number of steps at a time, any number of streams in one call.

        streams = Streaming(model)      streams.join("pump-1")      streams.push({"pump-1": x})["pump-1"].probabilities

    A stream joins, leaves and is fed without a trace in the others: each says what it would say alone. Its state lies
    in a slot of tensors [M, ...]; a push gathers the slots that it touches, a slot that is left is used again.
    gaps: what becomes of a number that isn't there (NaN): "refuse" it, or "hold" the last one of that feature.
    The model is put into eval mode.
    Raises ValueError if the model isn't causal, or its state grows with the stream (softmax).
    """

    def __init__(self, model: ToSTSequence, *, gaps: str = "refuse") -> None:
        if not isinstance(model, ToSTSequence) or not model.config.causal:
            got = "one that isn't" if isinstance(model, ToSTSequence) else type(model).__name__
            raise ValueError(f"Streaming expects a causal ToSTSequence, got {got}; build or train it with causal=True")
        if gaps not in GAPS:
            raise ValueError(f"Streaming: gaps is one of {', '.join(GAPS)}, got {gaps!r}")
        self.model, self.gaps = model.eval(), gaps
        self.fresh = _fresh_state(model)  # of one stream before its first step
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._room = 0
        self._state = self.fresh
        self._held = torch.empty(0, model.config.in_features)  # the last numbers of each stream, with gaps="hold"

    @property
    def names(self) -> list[str]:
        """The streams, in the order they joined."""
        return list(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def steps(self, name: str) -> int:
        """How many steps a stream has seen."""
        return int(self._state.length[self._slot(name)])

    def join(self, names: str | Iterable[str]) -> None:
        """Begin one stream or many. Raises ValueError, and then begins none, if one is there already or comes twice."""
        new = _listed(names)
        for i, name in enumerate(new):
            if not isinstance(name, str) or not name:
                raise ValueError(f"join expects names of streams, got {name!r}")
            if name in self._slots or name in new[:i]:
                raise ValueError(f"there is a stream {name!r} already; drop or reset it, or take another name")
        self._make_room(len(new))
        slots = [heapq.heappop(self._free) for _ in new]
        self._slots.update(zip(new, slots))
        self._clear(slots)

    def drop(self, names: str | Iterable[str]) -> None:
        """End one stream or many; their slots are free again. Raises ValueError, and ends none, for an unknown one."""
        gone = _listed(names)
        for name in gone:
            self._slot(name)
        for name in dict.fromkeys(gone):
            heapq.heappush(self._free, self._slots.pop(name))

    def reset(self, names: str | Iterable[str] | None = None) -> None:
        """Put some streams (None: all) back to before their first step."""
        slots = [self._slot(name) for name in (self.names if names is None else _listed(names))]
        self._clear(slots)

    def fork(self, name: str, new: str) -> None:
        """Begin the stream `new` where `name` stands now."""
        source = self._slot(name)
        self.join(new)
        target = self._slots[new]
        self._write([target], map_state(self._state, lambda t: t[source : source + 1].clone()))
        self._held[target] = self._held[source]

    @torch.no_grad()
    def push(self, steps: Mapping[str, Any], *, every: bool = False) -> dict[str, Reading]:
        """The next steps of some streams, numbers [n, F] (or [F]: one) or ids [n] -> a Reading each.

        n may differ by stream.  every: a Reading after each step [n, ...] instead of after the last.
        Raises ValueError, and then takes no step, for an unknown name, another width, no step, a number that is
        missing, infinite, or has no earlier one to hold; the message says which stream and step.
        """
        if self.model.training:
            raise ValueError("push: the model is in training mode, where dropout acts; call model.eval()")
        series, held = self._checked(steps)
        if not series:
            raise ValueError("push expects steps of one stream or more, got none")
        self._check_positions(series)
        readings: dict[str, Reading] = {}
        states: list[tuple[list[int], SequenceState]] = []
        for names in of_similar_length(series):  # so that padding at most doubles the work
            said, slots, state = self._together(names, series, every)
            readings.update(said)
            states.append((slots, state))
        for slots, state in states:  # only now: an error above has changed no stream
            self._write(slots, state)
        for name, row in held.items():
            self._held[self._slots[name]] = row
        return {name: readings[name] for name in series}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all streams to a safetensors file, whole or not at all: a few kB each."""
        slots = torch.tensor(list(self._slots.values()), dtype=torch.int64)
        rows = map_state(self._state, lambda t: t.index_select(0, slots.to(t.device)))
        write_streams(path, self.model, self.names, {**state_tensors(rows), "held": self._held[slots]})

    @classmethod
    def load(cls, model: ToSTSequence, path: str | os.PathLike[str], *, gaps: str = "refuse") -> Streaming:
        """The streams that `save` wrote, as they stood.

        Raises ValueError if the file is damaged, holds no streams, or those of a model of other sizes or weights.
        """
        streams = cls(model, gaps=gaps)
        names, tensors = read_streams(path, model)
        streams.join(names)
        slots = [streams._slots[name] for name in names]
        streams._held[slots] = tensors["held"]
        parts = iter(tensors[name] for name in state_tensors(streams.fresh))
        streams._write(slots, map_state(streams.fresh, lambda t: next(parts).to(t.device)))
        return streams

    def _checked(self, steps: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every stream's steps as a tensor [n, F] or ids [n], without gaps, and the rows to hold from now on."""
        c, series, held = self.model.config, {}, {}
        for name, values in steps.items():
            slot = self._slot(name)
            x = as_steps(name, values, c.in_features, c.vocab_size)
            if c.in_features and self.gaps == "hold":
                x = fill_gaps(name, x, self._held[slot])
                held[name] = x[-1]
            series[name] = x
        if c.in_features and series and not torch.cat(list(series.values())).isfinite().all():  # all at a time: fast
            for name, x in series.items():
                refuse_gaps(name, x)
        return series, held

    def _check_positions(self, series: Mapping[str, Tensor]) -> None:
        """ValueError if a stream would run beyond learned positions."""
        most = self.model.config.max_length
        for name, x in series.items() if self.model.positions is not None else ():
            if self.steps(name) + len(x) > most:
                raise ValueError(
                    f"stream {name!r} would be {self.steps(name) + len(x)} steps long, this model has learned "
                    f"positions for {most}; reset the stream, or build the model with positions='sinusoidal'"
                )

    def _together(
        self, names: list[str], series: Mapping[str, Tensor], every: bool
    ) -> tuple[dict[str, Reading], list[int], SequenceState]:
        """One call of the model on some streams, padded on the right: readings, and the slots' states to come."""
        slots, device = [self._slots[name] for name in names], self.fresh.length.device
        lengths = torch.tensor([len(series[name]) for name in names])
        x = torch.nn.utils.rnn.pad_sequence([series[name] for name in names], batch_first=True).to(device)
        mask = None if bool((lengths == x.shape[1]).all()) else (torch.arange(x.shape[1]) < lengths[:, None]).to(device)
        index = torch.tensor(slots, device=device)
        before = map_state(self._state, lambda t: t.index_select(0, index))
        logits, features, after = self.model.stream(x, before, mask)
        if every:
            said = {name: Reading(f[:n], g[:n]) for name, f, g, n in zip(names, features, logits, lengths.tolist())}
        else:
            row, last = torch.arange(len(names), device=device), (lengths - 1).to(device)
            said = {name: Reading(f, g) for name, f, g in zip(names, features[row, last], logits[row, last])}
        return said, slots, after

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            known = ", ".join(self.names[:3]) + (", ..." if len(self) > 3 else "")
            raise ValueError(f"no stream {name!r}: there are {len(self)} ({known or 'none'}); join it first")
        return self._slots[name]

    def _make_room(self, more: int) -> None:
        """At least `more` free slots; the tensors double, so that joining costs no copy of all each time."""
        if more <= len(self._free):
            return
        room = max(2 * self._room, self._room + more - len(self._free), 8)
        added, old = room - self._room, self._room
        new = map_state(self.fresh, lambda t: t.expand(added, *t.shape[1:]))
        parts = iter(state_tensors(new).values())
        self._state = map_state(self._state, lambda t: torch.cat([t[:old], next(parts)]))
        self._held = torch.cat([self._held, self._held.new_full((added, self._held.shape[1]), torch.nan)])
        self._free += range(old, room)  # ascending and above all others: still a heap
        self._room = room

    def _clear(self, slots: list[int]) -> None:
        self._write(slots, map_state(self.fresh, lambda t: t.expand(len(slots), *t.shape[1:])))
        self._held[slots] = torch.nan

    def _write(self, slots: list[int], rows: SequenceState) -> None:
        """Put the states of some streams into their slots."""
        index = torch.tensor(slots, dtype=torch.int64, device=self.fresh.length.device)
        for target, part in zip(state_tensors(self._state).values(), state_tensors(rows).values()):
            target.index_copy_(0, index, part)


def _fresh_state(model: ToSTSequence) -> SequenceState:
    """The state of one stream before its first step. ValueError if it would not stay of that size."""
    width, device = model.config.in_features, next(model.parameters()).device
    step = torch.zeros(1, 1, width, device=device) if width else torch.zeros(1, 1, dtype=torch.int64, device=device)
    with torch.no_grad():
        fresh = model.stream(step[:, :0])[2]
        later = model.stream(step, fresh)[2]
    sizes = [{name: t.shape for name, t in state_tensors(state).items()} for state in (fresh, later)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"Streaming wants a state of constant size, the mixer {model.config.mixer!r} keeps every step; use 'tssa'"
        )
    return fresh


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
