"""Fireblocks: a custody whose people and rules decide, which gives nonces and fees, signs with MPC and sends.

The vendor's SDK takes seconds to load: only `client` imports it, and only what is configured imports `client`.
"""
