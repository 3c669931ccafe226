"""Our compliance modules under the published ModularCompliance, in suites made by the published factory."""

from collections.abc import Iterator
from typing import Any

import pytest
from web3.contract import Contract
from web3.exceptions import ContractLogicError

from dalp.local import servers
from tests.integration.assets.published import ZERO, Published, Suite


@pytest.fixture(scope="module")
def published() -> Iterator[Published]:
    chain = servers.start_anvil(extra=["--accounts", "40"])
    yield Published(chain.url)
    chain.stop()


@pytest.fixture
def suite(published: Published) -> Suite:
    """Countries 250 and 276, at most 1000 per identity, unpaused."""
    settings = [
        published.countries.encode_abi("setAllowedCountries", [[250, 276]]),
        published.maximum.encode_abi("setMaxBalance", [1000]),
    ]
    made = published.suite([published.countries, published.maximum], settings)
    published.send(made.token.functions.unpause())
    return made


@pytest.fixture
def investors(published: Published, suite: Suite) -> list[tuple[str, Contract]]:
    """Two French investors, registered with the suite."""
    made = []
    for _ in range(2):
        wallet = published.wallets.pop()
        identity = published.identity(wallet)
        published.register(suite, wallet, identity)
        made.append((wallet, identity))
    return made


def refusal(call: Any, sender: str) -> str:
    """Return the reason for which the chain refuses a call."""
    with pytest.raises(ContractLogicError) as refused:
        call.call({"from": sender})
    return str(refused.value.message)


def held(published: Published, suite: Suite, identity: Contract) -> int:
    return int(published.maximum.functions.getIDBalance(suite.compliance.address, identity.address).call())


def test_settings_given_to_the_factory_are_bound_and_readable(published: Published, suite: Suite) -> None:
    compliance = suite.compliance.address
    assert suite.compliance.functions.getModules().call() == [
        published.countries.address,
        published.maximum.address,
    ]
    assert published.countries.functions.getAllowedCountries(compliance).call() == [250, 276]
    assert published.countries.functions.isCountryAllowed(compliance, 250).call()
    assert not published.countries.functions.isCountryAllowed(compliance, 840).call()
    assert published.maximum.functions.getMaxBalance(compliance).call() == 1000


def test_setting_the_countries_again_replaces_the_list(published: Published, suite: Suite) -> None:
    for _ in range(2):  # the same call twice leaves the same state
        published.set(suite, published.countries, "setAllowedCountries", [276, 840])
    compliance = suite.compliance.address
    assert published.countries.functions.getAllowedCountries(compliance).call() == [276, 840]
    assert not published.countries.functions.isCountryAllowed(compliance, 250).call()


@pytest.mark.parametrize(("countries", "reason"), [([250, 250], "country twice: 250"), ([0], "country 0")])
def test_a_senseless_list_is_refused_with_a_reason(
    published: Published, suite: Suite, countries: list[int], reason: str
) -> None:
    data = published.countries.encode_abi("setAllowedCountries", [countries])
    call = suite.compliance.functions.callModuleFunction(data, published.countries.address)
    assert reason in refusal(call, published.owner)


def test_only_the_compliance_contract_may_change_settings_or_act(published: Published, suite: Suite) -> None:
    countries, maximum = published.countries.functions, published.maximum.functions
    for call in (
        countries.setAllowedCountries([840]),
        maximum.setMaxBalance(1),
        countries.moduleMintAction(published.owner, 1),
        maximum.moduleMintAction(published.owner, 1),
        maximum.moduleBurnAction(published.owner, 1),
        maximum.moduleTransferAction(published.owner, published.stranger, 1),
    ):
        assert "only bound compliance can call" in refusal(call, published.owner)
    for call in (
        maximum.bindCompliance(suite.compliance.address),
        countries.unbindCompliance(suite.compliance.address),
    ):
        assert "only compliance contract can call" in refusal(call, published.owner)


def test_one_tokens_settings_do_not_touch_another_tokens(published: Published, suite: Suite) -> None:
    other = published.suite([published.countries, published.maximum], [])
    assert published.countries.functions.getAllowedCountries(other.compliance.address).call() == []
    assert published.maximum.functions.getMaxBalance(other.compliance.address).call() == 0
    assert published.maximum.functions.getMaxBalance(suite.compliance.address).call() == 1000


def test_without_settings_nobody_may_receive(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, identity), _ = investors
    for module in (published.countries, published.maximum):
        bare = published.suite([module], [])
        published.register(bare, wallet, identity)
        assert not bare.compliance.functions.canTransfer(ZERO, wallet, 1).call()


def test_an_unregistered_receiver_is_refused_without_a_revert(published: Published, suite: Suite) -> None:
    can_transfer = suite.compliance.functions.canTransfer
    assert not can_transfer(ZERO, published.stranger, 1).call()
    # In the other order too, where the maximum is asked first.
    published.send(suite.compliance.functions.removeModule(published.countries.address))
    assert not can_transfer(ZERO, published.stranger, 1).call()


def test_a_country_off_the_list_is_refused(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, _), _ = investors
    assert suite.compliance.functions.canTransfer(ZERO, wallet, 1).call()
    published.send(suite.registry.functions.updateCountry(wallet, 840))
    assert not suite.compliance.functions.canTransfer(ZERO, wallet, 1).call()
    assert "Compliance not followed" in refusal(suite.token.functions.mint(wallet, 1), published.owner)


def test_the_maximum_itself_is_allowed_and_one_more_is_not(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, identity), _ = investors
    published.send(suite.token.functions.mint(wallet, 1000))
    assert held(published, suite, identity) == 1000
    assert "Compliance not followed" in refusal(suite.token.functions.mint(wallet, 1), published.owner)


def test_an_amount_of_any_size_gets_an_answer_and_no_overflow(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, _), _ = investors
    published.send(suite.token.functions.mint(wallet, 1))
    assert not suite.compliance.functions.canTransfer(ZERO, wallet, 2**256 - 1).call()


def test_balances_follow_transfers_and_burns(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (first, first_identity), (second, second_identity) = investors
    published.send(suite.token.functions.batchMint([first, second], [900, 400]))
    assert "Transfer not possible" in refusal(suite.token.functions.transfer(second, 601), first)
    published.send(suite.token.functions.transfer(second, 600), first)
    assert (held(published, suite, first_identity), held(published, suite, second_identity)) == (300, 1000)
    published.send(suite.token.functions.burn(second, 250))
    assert held(published, suite, second_identity) == 750
    published.send(suite.token.functions.transfer(second, 250), first)
    assert held(published, suite, second_identity) == 1000


def test_the_maximum_counts_all_wallets_of_an_identity(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (first, identity), _ = investors
    second = published.wallets.pop()
    published.register(suite, second, identity)
    published.send(suite.token.functions.mint(first, 700))
    assert "Compliance not followed" in refusal(suite.token.functions.mint(second, 301), published.owner)
    # Between their own wallets they may move all of it.
    published.send(suite.token.functions.transfer(second, 700), first)
    assert held(published, suite, identity) == 700


def test_a_forced_transfer_over_the_maximum_fails_with_a_readable_reason(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (first, _), (second, _) = investors
    published.send(suite.token.functions.batchMint([first, second], [600, 600]))
    call = suite.token.functions.forcedTransfer(first, second, 500)
    assert "over the maximum balance of 1000" in refusal(call, published.owner)


def test_a_lowered_maximum_stops_growth_and_lets_holders_leave(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (first, first_identity), (second, _) = investors
    published.send(suite.token.functions.mint(first, 800))
    published.set(suite, published.maximum, "setMaxBalance", 500)
    assert not suite.compliance.functions.canTransfer(ZERO, first, 1).call()
    published.send(suite.token.functions.transfer(second, 400), first)
    assert held(published, suite, first_identity) == 400


def test_tokens_can_be_burned_after_the_wallet_left_the_registry(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, identity), _ = investors
    published.send(suite.token.functions.mint(wallet, 500))
    published.send(suite.registry.functions.deleteIdentity(wallet))
    published.send(suite.token.functions.burn(wallet, 200))
    assert held(published, suite, identity) == 300


def test_a_wallet_that_changes_its_identity_takes_its_holding_along(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (first, old), (_, new) = investors
    published.send(suite.token.functions.mint(first, 600))
    published.send(suite.registry.functions.updateIdentity(first, new.address))
    assert not suite.compliance.functions.canTransfer(ZERO, first, 401).call()
    published.send(suite.token.functions.mint(first, 400))
    assert (held(published, suite, old), held(published, suite, new)) == (0, 1000)


def test_the_maximum_can_only_be_bound_while_nothing_was_issued(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (wallet, identity), _ = investors
    module = published.maximum.address
    published.send(suite.token.functions.mint(wallet, 500))
    published.send(suite.compliance.functions.removeModule(module))
    reason = refusal(suite.compliance.functions.addModule(module), published.owner)
    assert "compliance is not suitable for binding to the module" in reason
    # What happens while it is not bound is not seen: a later binding must not remember the 500.
    published.send(suite.token.functions.burn(wallet, 500))
    published.send(suite.compliance.functions.addModule(module))
    assert held(published, suite, identity) == 0
    assert suite.compliance.functions.canTransfer(ZERO, wallet, 1000).call()


def test_a_recovered_wallet_keeps_the_identitys_count(
    published: Published, suite: Suite, investors: list[tuple[str, Contract]]
) -> None:
    (lost, identity), _ = investors
    new = published.wallets.pop()
    published.send(suite.token.functions.mint(lost, 1000))
    key = published.w3.keccak(bytes.fromhex(new[2:].rjust(64, "0")))
    published.send(identity.functions.addKey(key, 1, 1))
    published.send(suite.token.functions.recoveryAddress(lost, new, identity.address))
    assert suite.token.functions.balanceOf(new).call() == 1000
    assert held(published, suite, identity) == 1000
