"""What must hold before an issuance sends its first transaction: who may receive, and what the platform can take."""

from collections.abc import Sequence

from dalp.assets.models import Asset, AssetState
from dalp.assets.platforms import OnChain
from dalp.assets.values import Address, Output
from workflows import PermanentError

# Of the published registry storage: "cannot bind more than 300 IR to 1 IRS".
TOKENS_PER_STORAGE_MAX = 300


class Standing(Output):
    """What the registry shows about a wallet. `country` is 0 and `identity` the zero address when it is unknown."""

    wallet: Address
    registered: bool
    identity: str
    country: int
    verified: bool


def read_standings(platform: OnChain, wallets: Sequence[str]) -> list[Standing]:
    """Read what the shared registry shows about the wallets, in one request to the node."""
    registry = platform.identity_registry
    names = ("contains", "identity", "investorCountry", "isVerified")
    answers = platform.view.read_many([(registry, name, (wallet,)) for wallet in wallets for name in names])
    rows = [answers[start : start + len(names)] for start in range(0, len(answers), len(names))]
    return [
        Standing(wallet=wallet, registered=row[0], identity=row[1], country=row[2], verified=row[3])
        for wallet, row in zip(wallets, rows, strict=True)
    ]


def broken_rules(standing: Standing, countries: Sequence[int], topic: int) -> list[str]:
    """Return in words each rule that keeps this investor from receiving the token; none when it is eligible."""
    if not standing.registered:
        return [f"investor {standing.wallet}: not registered, has no identity"]
    rules = []
    if not standing.verified:
        rules.append(f"investor {standing.wallet}: no KYC claim of a trusted issuer (topic {topic})")
    if standing.country not in countries:
        allowed = f"is not in the allow-list {sorted(countries)}"
        rules.append(f"investor {standing.wallet}: country {standing.country} {allowed}")
    return rules


def require_free_symbol(chain_id: int, symbol: str) -> None:
    """Refuse a symbol under which a token was issued on this chain."""
    taken = Asset.objects.filter(chain_id=chain_id, symbol=symbol).exclude(state=AssetState.STOPPED).first()
    if taken:
        raise PermanentError(
            "ASSET_SYMBOL_TAKEN", f"{symbol} is the token {taken.token} on this chain already"
        )


def require_room(platform: OnChain) -> None:
    """Refuse a token that the shared storage has no place for: the factory would revert without a reason."""
    if (
        len(platform.view.read(platform.identity_storage, "linkedIdentityRegistries"))
        >= TOKENS_PER_STORAGE_MAX
    ):
        raise PermanentError(
            "PLATFORM_FULL", f"the identity storage serves {TOKENS_PER_STORAGE_MAX} tokens; it takes no more"
        )
