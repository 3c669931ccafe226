"""The event index: logs of watched contracts, each handed to a handler exactly once, and taken back when the chain does.

registering.py   which contracts are read, by whom they were paused, and reading one anew
handlers.py      what is done with an event, and how that is undone
indexing.py      one worker's turn at a chain: look, go back, follow, catch up
tenure.py        what these share while one worker has the index
following.py     the front, for all contracts that have caught up
catching_up.py   the contracts behind it
rewinding.py     back to where a fork begins, or because a person wants it
forks.py         where that is
reading.py       logs as a node has them, believed only where they fit the blocks
ranges.py        how many blocks are asked for at once
handing_over.py  logs into rows and handlers, and back
holders.py       the handler that keeps who holds how much of a token
status.py        lag and finality
comparing.py     the index held against a fresh read of the chain
"""
