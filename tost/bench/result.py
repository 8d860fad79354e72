"""What a group found: the gate's checks and flat records, so that it is a table in any format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tost.bench.gate import Check
from tost.bench.machine import machine
from tost.bench.settings import Settings


@dataclass
class Result:
    """`records` have a column "what" that says which table they belong to; `absent` is who could not run, and why."""

    group: str
    settings: Settings
    machine: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.machine = self.machine or machine(self.settings.device)

    def check(self, checks: Iterable[Check]) -> bool:
        """Add comparisons and say whether all so far are green."""
        self.checks += [{**check._asdict(), "green": check.green, "said": str(check)} for check in checks]
        return not self.red

    def add(self, what: str, records: Iterable[dict[str, Any]]) -> None:
        """Add records to a table."""
        self.records += [{"what": what, **record} for record in records]

    def of(self, what: str, **values: Any) -> list[dict[str, Any]]:
        """The records of a table with these values."""
        chosen = (r for r in self.records if r["what"] == what)
        return [r for r in chosen if all(r.get(key) == value for key, value in values.items())]

    @property
    def red(self) -> list[str]:
        """The gate's complaints."""
        return [check["said"] for check in self.checks if not check["green"]]
