"""The objective behind the operator: coding rates, their variational bound, what learns by them, and recorders."""

from tost.rates.bound import attaining_basis, attaining_subspaces, diagonal_bound, spectral_rate
from tost.rates.concave import Concave, LogRate, PowerRate, SaturatingRate
from tost.rates.membership import memberships
from tost.rates.rates import (
    coding_rate,
    compression_rate,
    projected_rate,
    rate_reduction,
    variational_gradient,
    variational_rate,
)
from tost.rates.record import RateRecord, record_class_attention, record_memberships, record_rates
from tost.rates.reduction import MCR2Loss, NearestSubspace

__all__ = [
    "Concave",
    "LogRate",
    "MCR2Loss",
    "NearestSubspace",
    "PowerRate",
    "RateRecord",
    "SaturatingRate",
    "attaining_basis",
    "attaining_subspaces",
    "coding_rate",
    "compression_rate",
    "diagonal_bound",
    "memberships",
    "projected_rate",
    "rate_reduction",
    "record_class_attention",
    "record_memberships",
    "record_rates",
    "spectral_rate",
    "variational_gradient",
    "variational_rate",
]
