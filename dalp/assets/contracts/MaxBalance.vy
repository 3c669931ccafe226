# pragma version 0.4.3
# pragma evm-version paris
#
# Copyright The DALP authors
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance
# with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed
# on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""
@title MaxBalance
@license Apache-2.0
@notice An ERC-3643 compliance module: no identity may hold more than the maximum, over all its wallets.
    One contract serves every token: its state is kept per compliance contract. It has no owner and no upgrade;
    a compliance contract, called by its owner through `callModuleFunction`, is the only one to set its maximum.
    Without a maximum nobody may receive: it fails closed.

    A wallet's tokens are counted under the identity that the wallet had when it received them. So they leave the
    count again even when the wallet was taken out of the registry in between, and a wallet that changed its
    identity takes its whole holding along with its next receipt.
"""

interface ModularCompliance:
    def getTokenBound() -> address: view

interface Token:
    def identityRegistry() -> address: view
    def totalSupply() -> uint256: view

interface IdentityRegistry:
    def identity(_userAddress: address) -> address: view

event ComplianceBound:
    _compliance: indexed(address)

event ComplianceUnbound:
    _compliance: indexed(address)

event MaxBalanceSet:
    compliance: indexed(address)
    maximum: uint256

struct Holding:
    identity: address
    amount: uint256

bound: HashMap[address, bool]
maximum: HashMap[address, uint256]
# Raised at each binding. The counts below belong to one binding: what happened while the module was not bound was not
# seen, so a later binding (which demands an empty token) starts from nothing instead of from stale figures.
binding: HashMap[address, uint256]
holdings: HashMap[address, HashMap[uint256, HashMap[address, Holding]]]
balances: HashMap[address, HashMap[uint256, HashMap[address, uint256]]]


@external
def setMaxBalance(maximum: uint256):
    """
    @notice Set the calling compliance's maximum, in base units. Holdings already above it stay, but cannot grow.
    """
    assert self.bound[msg.sender], "only bound compliance can call"
    self.maximum[msg.sender] = maximum
    log MaxBalanceSet(compliance=msg.sender, maximum=maximum)


@view
@external
def getMaxBalance(compliance: address) -> uint256:
    """
    @notice The maximum of a compliance contract, in base units; 0 when none was set.
    """
    return self.maximum[compliance]


@view
@external
def getIDBalance(compliance: address, identity: address) -> uint256:
    """
    @notice What the identity holds over all its wallets, in base units.
    """
    return self.balances[compliance][self.binding[compliance]][identity]


@view
@external
def moduleCheck(_from: address, _to: address, _value: uint256, _compliance: address) -> bool:
    """
    @notice Whether the receiver's identity stays within the maximum. An unregistered receiver: False, no revert.
    """
    identity: address = self._identity(_compliance, _to)
    if identity == empty(address):
        return False
    binding: uint256 = self.binding[_compliance]
    if self.holdings[_compliance][binding][_from].identity == identity:
        # Between two wallets of one identity: nothing is gained.
        return True
    held: uint256 = self.balances[_compliance][binding][identity]
    holding: Holding = self.holdings[_compliance][binding][_to]
    if holding.identity != identity:
        held += holding.amount
    maximum: uint256 = self.maximum[_compliance]
    # Compared by subtraction: a sum with any amount that a caller may name would overflow and revert.
    return held <= maximum and _value <= maximum - held


@external
def moduleTransferAction(_from: address, _to: address, _value: uint256):
    """
    @notice Move the amount between the identities; refuse what a forced transfer would put over the maximum.
    """
    assert self.bound[msg.sender], "only bound compliance can call"
    source: address = self._debit(msg.sender, _from, _value)
    target: address = self._credit(msg.sender, _to, _value)
    if source != target:
        self._refuse_over_maximum(msg.sender, target)


@external
def moduleMintAction(_to: address, _value: uint256):
    """
    @notice Count the new amount; refuse it over the maximum.
    """
    assert self.bound[msg.sender], "only bound compliance can call"
    self._refuse_over_maximum(msg.sender, self._credit(msg.sender, _to, _value))


@external
def moduleBurnAction(_from: address, _value: uint256):
    """
    @notice Take the amount off the count.
    """
    assert self.bound[msg.sender], "only bound compliance can call"
    self._debit(msg.sender, _from, _value)


@external
def bindCompliance(_compliance: address):
    """
    @notice Called by a compliance contract when its owner adds this module.
    """
    assert msg.sender == _compliance, "only compliance contract can call"
    assert not self.bound[_compliance], "compliance already bound"
    self.bound[_compliance] = True
    self.binding[_compliance] += 1
    log ComplianceBound(_compliance=_compliance)


@external
def unbindCompliance(_compliance: address):
    """
    @notice Called by a compliance contract when its owner removes this module. The maximum is kept, the counts not.
    """
    assert msg.sender == _compliance, "only compliance contract can call"
    assert self.bound[_compliance], "compliance not bound"
    self.bound[_compliance] = False
    log ComplianceUnbound(_compliance=_compliance)


@view
@external
def isComplianceBound(_compliance: address) -> bool:
    """
    @notice Whether the compliance contract uses this module.
    """
    return self.bound[_compliance]


@view
@external
def canComplianceBind(_compliance: address) -> bool:
    """
    @notice Only while the compliance's token has no supply: earlier holdings were not counted.
    """
    token: address = staticcall ModularCompliance(_compliance).getTokenBound()
    return token != empty(address) and staticcall Token(token).totalSupply() == 0


@pure
@external
def isPlugAndPlay() -> bool:
    """
    @notice Not in every state: the compliance must ask `canComplianceBind` first.
    """
    return False


@pure
@external
def name() -> String[32]:
    """
    @notice The module's name.
    """
    return "MaxBalance"


@internal
def _credit(compliance: address, wallet: address, amount: uint256) -> address:
    """
    @dev Count the amount under the wallet's identity of today, and the wallet's earlier holding with it.
    """
    identity: address = self._identity(compliance, wallet)
    assert identity != empty(address), "the receiver has no identity"
    binding: uint256 = self.binding[compliance]
    holding: Holding = self.holdings[compliance][binding][wallet]
    gained: uint256 = amount
    if holding.identity != identity:
        self.balances[compliance][binding][holding.identity] -= holding.amount
        gained += holding.amount
    self.balances[compliance][binding][identity] += gained
    self.holdings[compliance][binding][wallet] = Holding(identity=identity, amount=holding.amount + amount)
    return identity


@internal
def _debit(compliance: address, wallet: address, amount: uint256) -> address:
    """
    @dev Take the amount off the identity under which the wallet's tokens were counted.
    """
    binding: uint256 = self.binding[compliance]
    holding: Holding = self.holdings[compliance][binding][wallet]
    # More can only leave than was counted when the compliance was moved to a token that had supply. Such holders
    # must still be able to leave: a limit on holdings is no reason to lock them in.
    counted: uint256 = min(amount, holding.amount)
    self.holdings[compliance][binding][wallet].amount = holding.amount - counted
    self.balances[compliance][binding][holding.identity] -= counted
    return holding.identity


@view
@internal
def _identity(compliance: address, wallet: address) -> address:
    token: address = staticcall ModularCompliance(compliance).getTokenBound()
    registry: address = staticcall Token(token).identityRegistry()
    return staticcall IdentityRegistry(registry).identity(wallet)


@view
@internal
def _refuse_over_maximum(compliance: address, identity: address):
    maximum: uint256 = self.maximum[compliance]
    held: uint256 = self.balances[compliance][self.binding[compliance]][identity]
    assert held <= maximum, concat("over the maximum balance of ", uint2str(maximum))
