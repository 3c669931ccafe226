"""Telling other systems what becomes of transactions: signed, in order for each transaction, again until it is taken."""
