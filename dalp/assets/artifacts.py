"""The contracts' artifacts: the published ERC-3643 and ONCHAINID ones from npm, our own from `contracts/`.

The published contracts are under GPL-3.0, so they are fetched at set-up (`npm ci`) and never kept in the repository.
"""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = Path(os.environ.get("DALP_NODE_MODULES") or Path(__file__).parents[2] / "node_modules")
TREX = "@tokenysolutions/t-rex/artifacts/contracts"
ONCHAINID = "@onchain-id/solidity/artifacts/contracts"

# Both packages carry some of the names, in different builds, so each name says where it is taken from.
PUBLISHED = {
    "Token": f"{TREX}/token/Token.sol",
    "IdentityRegistry": f"{TREX}/registry/implementation/IdentityRegistry.sol",
    "IdentityRegistryStorage": f"{TREX}/registry/implementation/IdentityRegistryStorage.sol",
    "ClaimTopicsRegistry": f"{TREX}/registry/implementation/ClaimTopicsRegistry.sol",
    "TrustedIssuersRegistry": f"{TREX}/registry/implementation/TrustedIssuersRegistry.sol",
    "ModularCompliance": f"{TREX}/compliance/modular/ModularCompliance.sol",
    "TREXImplementationAuthority": f"{TREX}/proxy/authority/TREXImplementationAuthority.sol",
    "IAFactory": f"{TREX}/proxy/authority/IAFactory.sol",
    "TREXFactory": f"{TREX}/factory/TREXFactory.sol",
    "Identity": f"{ONCHAINID}/Identity.sol",
    "ImplementationAuthority": f"{ONCHAINID}/proxy/ImplementationAuthority.sol",
    "IdFactory": f"{ONCHAINID}/factory/IdFactory.sol",
    "ClaimIssuer": f"{ONCHAINID}/ClaimIssuer.sol",
}
OWN = ("CountryAllow", "MaxBalance")


class ArtifactMissingError(Exception):
    """A contract's artifact is not on this machine. Nothing may be retried: a person has to run the set-up."""


@dataclass(frozen=True)
class Artifact:
    """One contract: its ABI and its creation bytecode (0x text)."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: str


@functools.cache
def artifact(name: str) -> Artifact:
    """Return the artifact of a contract by its name, read once per process.

    Raises KeyError for a name that the platform doesn't use, ArtifactMissingError where the packages are missing.
    """
    path = Path(__file__).parent / "contracts" / f"{name}.json"
    if name not in OWN:
        path = PACKAGES / PUBLISHED[name] / f"{name}.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactMissingError(
            f"the artifact of {name} is missing at {path}: run `make setup` (or `npm ci` in {PACKAGES.parent})"
        ) from None
    return Artifact(name, content["abi"], content["bytecode"])
