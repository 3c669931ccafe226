# pragma version 0.4.3
# pragma evm-version paris
# SPDX-License-Identifier: Apache-2.0
"""
@title Coin
@license Apache-2.0
@notice A token as ERC-20 has it, that anybody may mint, burn and move: what the tests of the event index hold its
    holders against.
"""

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    amount: uint256

# An event that the handler of holders doesn't want.
event Noted:
    text: String[32]

struct Move:
    sender: address
    receiver: address
    amount: uint256

balanceOf: public(HashMap[address, uint256])
totalSupply: public(uint256)


@external
def move(moves: DynArray[Move, 50]):
    """
    @notice Carry out all moves in this order. From the zero address: mint; to it: burn.
    """
    for each: Move in moves:
        if each.sender == empty(address):
            self.totalSupply += each.amount
        else:
            self.balanceOf[each.sender] -= each.amount
        if each.receiver == empty(address):
            self.totalSupply -= each.amount
        else:
            self.balanceOf[each.receiver] += each.amount
        log Transfer(sender=each.sender, receiver=each.receiver, amount=each.amount)


@external
def note(text: String[32]):
    """
    @notice Emit an event that is no transfer.
    """
    log Noted(text=text)


@external
def steal(sender: address, amount: uint256):
    """
    @notice Take from somebody without an event, as a token must not.
    """
    self.balanceOf[sender] -= amount
    self.balanceOf[msg.sender] += amount
