"""A token suite: the token with its identity registry and compliance contract, made in one transaction by the factory."""

from collections.abc import Sequence

from dalp.assets.calls import Sender, contract
from dalp.assets.platforms import KYC_TOPIC, OnChain
from dalp.assets.values import ZERO_ADDRESS
from signer import Contract, TransactionRequest

# Given, not estimated, so that the block decides whether the mint is allowed and not a guess made before it. Measured:
# 375 356 for one investor, 10 596 322 for 50; a fifth is added. Under the 2^24 of EIP-7825 with the 50 that are allowed.
MINT_GAS, MINT_GAS_PER_INVESTOR = 200_000, 250_000


def deploy_suite(
    sender: Sender,
    factory: Contract,
    salt: str,
    *,
    owner: str,
    claim_issuer: str,
    name: str,
    symbol: str,
    decimals: int = 0,
    storage: str = ZERO_ADDRESS,
    modules: Sequence[str] = (),
    gas_limit: int | None = None,
) -> TransactionRequest:
    """Return the transaction that deploys a suite. The token starts paused, owned by `owner`, who is also its agent.

    salt: what the factory knows the token by; a second deployment with it reverts.
    storage: the identity registry storage to share; the factory must own it. None given, the suite gets its own.
    modules: bound, but not set: until their settings are given they let nobody receive the token.
    """
    details = {
        "owner": owner,
        "name": name,
        "symbol": symbol,
        "decimals": decimals,
        "irs": storage,
        "ONCHAINID": ZERO_ADDRESS,  # the factory makes the token's identity
        "irAgents": [owner],
        "tokenAgents": [owner],
        "complianceModules": list(modules),
        "complianceSettings": [],
    }
    claims = {"claimTopics": [KYC_TOPIC], "issuers": [claim_issuer], "issuerClaims": [[KYC_TOPIC]]}
    return sender.call(
        factory,
        "deployTREXSuite",
        salt,
        details,
        claims,
        label=f"deploy the suite of {symbol}",
        gas_limit=gas_limit,
    )


def pause_if_open(platform: OnChain, token: Contract, symbol: str) -> list[TransactionRequest]:
    """Return the transaction that pauses a token, or nothing when it is paused: a second pause reverts."""
    if platform.view.read(token, "paused"):
        return []
    return [platform.deployer.call(token, "pause", label=f"pause {symbol}")]


def missing_issue(
    platform: OnChain, token_address: str, symbol: str, holdings: Sequence[tuple[str, int]]
) -> list[TransactionRequest]:
    """Return what is still to be sent for the first supply to be minted and the token open, in this order.

    holdings: wallet and amount in base units. All are minted in one transaction: one refused, all refused.
    """
    token, send = contract("Token", token_address), platform.deployer.call
    supply, paused = platform.view.read_many([(token, "totalSupply", ()), (token, "paused", ())])
    requests = []
    if supply == 0:
        wallets, amounts = zip(*holdings, strict=True)
        gas_limit = MINT_GAS + MINT_GAS_PER_INVESTOR * len(wallets)
        label = f"mint the supply of {symbol}"
        requests.append(send(token, "batchMint", wallets, amounts, label=label, gas_limit=gas_limit))
    if paused:
        requests.append(send(token, "unpause", label=f"unpause {symbol}"))
    return requests


def compliance_settings(platform: OnChain, compliance: Contract) -> tuple[list[int], int]:
    """Return the allowed countries and the maximum balance that the modules keep for a compliance contract."""
    countries, maximum = platform.view.read_many(
        [
            (platform.country_allow, "getAllowedCountries", (compliance.address,)),
            (platform.max_balance, "getMaxBalance", (compliance.address,)),
        ]
    )
    return countries, maximum
