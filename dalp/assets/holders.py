"""Who holds an asset: kept by the event index from the token's Transfer events."""

from dalp.assets.models import Asset
from signer import Holding, WatchedContract, watch_contract

HANDLER = "erc20.holders"


def index_holders(asset: Asset, from_block: int) -> None:
    """Have the holders of the asset's token kept; from_block: one that is older than the token."""
    watch_contract(
        asset.chain_id, asset.token, handler=HANDLER, from_block=from_block, label=f"asset {asset.symbol}"
    )


def count_holders(asset: Asset) -> tuple[int, int | None] | None:
    """Return how many hold some of the asset, and as of which block; None where nobody keeps them."""
    contract = WatchedContract.objects.filter(
        index=asset.chain_id, address=asset.token, handler=HANDLER
    ).first()
    if contract is None:
        return None
    held = Holding.objects.filter(chain=asset.chain_id, token=asset.token, balance_wei__gt=0)
    return held.count(), contract.number
