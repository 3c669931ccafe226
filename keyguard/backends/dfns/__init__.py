"""DFNS: a custody with keys that sign, and wallets that give nonces and fees and send.

A small client of our own: the vendor's Python SDK puts ids into paths unquoted and has no time limits of its own.
"""
