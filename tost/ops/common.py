"""Constants of the published operator, the same in every backend."""

FULL_FLOOR = 1e-24  # of the energy: torch's normalize clamps the norm at 1e-12
CAUSAL_FLOOR = 1e-12  # of the running energy
MASS_EPS = 1e-8  # added to the mass before it divides
