"""The workflows of this app: importing them registers them."""

from dalp.assets.bootstrap import BootstrapPlatform
from dalp.assets.investors import RegisterInvestor
from dalp.assets.issuance import IssueAsset
from dalp.assets.rotating import start_rotation
from dalp.assets.rotation import RotateKey

__all__ = ["BootstrapPlatform", "IssueAsset", "RegisterInvestor", "RotateKey", "start_rotation"]
