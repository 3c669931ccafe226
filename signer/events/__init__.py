"""The event index: logs of watched contracts, each handed to a handler exactly once, and taken back when the chain does.

registering.py   which contracts are read, by whom they were paused, and reading one anew
handlers.py      what is done with an event, and how that is undone
indexing.py      one worker's turn at a chain: look, follow the head, catch up, rewind
reading.py       logs as a node has them, believed only where they fit the blocks
handing_over.py  logs into rows and handlers, and back
forks.py         where the chain that was read and the node's chain part
ranges.py        how many blocks are asked for at once
holders.py       the handler that keeps who holds how much of a token
comparing.py     holds the index against a fresh read of the chain
"""
