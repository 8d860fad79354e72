"""The six tasks of the Long Range Arena (Tay et al. 2020), generated to specification or read from its files."""
