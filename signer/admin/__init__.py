"""The signer in the admin: what is where, why it waits, and what was sent.

Nothing is edited by hand but what a page says; an endpoint's URL, which holds the provider's key, is never shown.
"""

from signer.admin import chains, error_rules, events, incidents, lanes, money, transactions

__all__ = ["chains", "error_rules", "events", "incidents", "lanes", "money", "transactions"]
