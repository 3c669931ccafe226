"""Lanes whose key is in a custody that gives the nonces, offers the fees and sends: handing over, asking, checking."""
