"""What the configurations of models share: fields changed by name, unknown ones refused."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

Config = TypeVar("Config", bound="Fields")


@dataclass(frozen=True)
class Fields:
    """Base of a configuration. SIGN: a field by which its config.json is told from others."""

    SIGN: ClassVar[str]

    def with_fields(self: Config, **changes: Any) -> Config:
        """A copy with some fields changed. Raises ValueError for a name that isn't a field, listing them."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            name = getattr(self, "name", type(self).__name__)
            raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        return replace(self, **changes)
