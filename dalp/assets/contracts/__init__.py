"""Compliance modules of our own, in Vyper, with their compiled artifacts."""
