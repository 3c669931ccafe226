"""A trail of what was asked of keys, and of what people did to them, that shows it when anybody has altered it.

One chain for each key, and one for what belongs to none: each entry's authentication code covers the entry before it,
with a key that the database does not have. Once a minute a head says how far each chain has come; a head that was noted
elsewhere, or that a key in an HSM has signed, shows a trail that was cut short.
"""
