"""The objective behind the operator: coding rates, their variational bound, and recorders of a model's layers."""

from tost.rates.concave import Concave, LogRate, PowerRate, SaturatingRate
from tost.rates.rates import coding_rate, compression_rate, projected_rate, rate_reduction, variational_rate
from tost.rates.record import RateRecord, record_class_attention, record_memberships, record_rates

__all__ = [
    "Concave",
    "LogRate",
    "PowerRate",
    "RateRecord",
    "SaturatingRate",
    "coding_rate",
    "compression_rate",
    "projected_rate",
    "rate_reduction",
    "record_class_attention",
    "record_memberships",
    "record_rates",
    "variational_rate",
]
