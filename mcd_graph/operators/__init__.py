"""The operators of the domain ``mcd``."""
