# pragma version 0.4.3
# pragma evm-version paris
# SPDX-License-Identifier: Apache-2.0
"""
@title Counter
@license Apache-2.0
@notice Counts on the chain how often each request was executed. The fault tests send request ids through the
    system while they break it, and then ask here: every id must stand at exactly one.
"""

event Recorded:
    request_id: indexed(uint256)
    caller: indexed(address)
    times: uint256

# How often each request id was recorded.
counts: public(HashMap[uint256, uint256])
# How many calls were executed in all: shows an execution under an id that the test doesn't know.
total: public(uint256)
# Ids that `record` refuses: the test's way to make a transaction revert on the chain.
refused: public(HashMap[uint256, bool])


@external
def record(request_id: uint256):
    """
    @notice Count one execution of the request.
    """
    assert not self.refused[request_id], "request refused"
    self.counts[request_id] += 1
    self.total += 1
    log Recorded(request_id=request_id, caller=msg.sender, times=self.counts[request_id])


@external
def refuse(request_id: uint256, refusing: bool):
    """
    @notice Make later calls of `record` with this id revert with "request refused", or allow them again.
    """
    self.refused[request_id] = refusing
