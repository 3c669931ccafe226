"""The only door to the nodes: JSON-RPC over HTTP, and heads over WebSocket.

`door` says what can be asked, `transport` asks one endpoint, `gateway` asks those of a chain, and `chains.connect`
hands out gateways. An error is raised, or returned in its place; it is never turned into an answer.
"""

from signer.rpc.answers import node_error, quantity
from signer.rpc.door import BATCH_SIZE, Call, Rpc
from signer.rpc.transport import Node

__all__ = ["BATCH_SIZE", "Call", "Node", "Rpc", "node_error", "quantity"]
