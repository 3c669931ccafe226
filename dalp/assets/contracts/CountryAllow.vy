# pragma version 0.4.3
# pragma evm-version paris
#
# Copyright The DALP authors
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance
# with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed
# on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""
@title CountryAllow
@license Apache-2.0
@notice An ERC-3643 compliance module: only investors of the listed countries may receive the token.
    One contract serves every token: its state is kept per compliance contract. It has no owner and no upgrade;
    a compliance contract, called by its owner through `callModuleFunction`, is the only one to change its own list.
    Countries are ISO 3166-1 numeric codes. Without a list nobody may receive: it fails closed.
"""

interface ModularCompliance:
    def getTokenBound() -> address: view

interface Token:
    def identityRegistry() -> address: view

interface IdentityRegistry:
    def investorCountry(_userAddress: address) -> uint16: view

event ComplianceBound:
    _compliance: indexed(address)

event ComplianceUnbound:
    _compliance: indexed(address)

event CountriesAllowed:
    compliance: indexed(address)
    countries: DynArray[uint16, 250]

# ISO 3166-1 has 249 countries.
COUNTRIES_MAX: constant(uint256) = 250

bound: HashMap[address, bool]
countries: HashMap[address, DynArray[uint16, COUNTRIES_MAX]]
allowed: HashMap[address, HashMap[uint16, bool]]


@external
def setAllowedCountries(countries: DynArray[uint16, COUNTRIES_MAX]):
    """
    @notice Replace the calling compliance's list. The same call twice leaves the same state, so it may be repeated.
    """
    assert self.bound[msg.sender], "only bound compliance can call"
    for country: uint16 in self.countries[msg.sender]:
        self.allowed[msg.sender][country] = False
    for country: uint16 in countries:
        # 0 is what the registry answers for a wallet that it doesn't know.
        assert country != 0, "country 0 is not a country"
        assert not self.allowed[msg.sender][country], concat("country twice: ", uint2str(country))
        self.allowed[msg.sender][country] = True
    self.countries[msg.sender] = countries
    log CountriesAllowed(compliance=msg.sender, countries=countries)


@view
@external
def getAllowedCountries(compliance: address) -> DynArray[uint16, COUNTRIES_MAX]:
    """
    @notice The list of a compliance contract, in the order in which it was given.
    """
    return self.countries[compliance]


@view
@external
def isCountryAllowed(compliance: address, country: uint16) -> bool:
    """
    @notice Whether investors of the country may receive the compliance's token.
    """
    return self.allowed[compliance][country]


@view
@external
def moduleCheck(_from: address, _to: address, _value: uint256, _compliance: address) -> bool:
    """
    @notice Whether the receiver's country is on the list. An unregistered receiver has country 0: False, no revert.
    """
    token: address = staticcall ModularCompliance(_compliance).getTokenBound()
    registry: address = staticcall Token(token).identityRegistry()
    country: uint16 = staticcall IdentityRegistry(registry).investorCountry(_to)
    return self.allowed[_compliance][country]


@external
def moduleTransferAction(_from: address, _to: address, _value: uint256):
    """
    @notice Nothing to keep. A forced transfer isn't checked, by ERC-3643's own rule: the agent answers for it.
    """
    assert self.bound[msg.sender], "only bound compliance can call"


@external
def moduleMintAction(_to: address, _value: uint256):
    """
    @notice Nothing to keep.
    """
    assert self.bound[msg.sender], "only bound compliance can call"


@external
def moduleBurnAction(_from: address, _value: uint256):
    """
    @notice Nothing to keep.
    """
    assert self.bound[msg.sender], "only bound compliance can call"


@external
def bindCompliance(_compliance: address):
    """
    @notice Called by a compliance contract when its owner adds this module.
    """
    assert msg.sender == _compliance, "only compliance contract can call"
    assert not self.bound[_compliance], "compliance already bound"
    self.bound[_compliance] = True
    log ComplianceBound(_compliance=_compliance)


@external
def unbindCompliance(_compliance: address):
    """
    @notice Called by a compliance contract when its owner removes this module. The list is kept.
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
    @notice Always: the module keeps no balances, so it may be added at any time.
    """
    return True


@pure
@external
def isPlugAndPlay() -> bool:
    """
    @notice The module needs nothing to be set before it is bound.
    """
    return True


@pure
@external
def name() -> String[32]:
    """
    @notice The module's name.
    """
    return "CountryAllow"
