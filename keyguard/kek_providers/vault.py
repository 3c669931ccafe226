"""KEKs in Vault's transit engine: a derived key for each KEK, with what a DEK is bound to as its context.

Upholds: every DEK is under the version of the transit key that the KEK's row names, so who rotates the transit key in
Vault moves nothing and breaks nothing; a version that Vault no longer decrypts with is told apart from damaged material.
Derived keys, because Vault's rewrap takes no associated data (hashicorp/vault#29532): the context is its equal.
"""

import base64
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from keyguard.backend_errors import KekRefusedError, VaultRefusedError
from keyguard.curve import wipe
from keyguard.envelope import DEK_BYTES, KekCipher, WrappedDek
from keyguard.errors import MaterialTamperedError
from keyguard.kek_providers import Made
from keyguard.models import Kek
from keyguard.vault_client import vault

# What Vault says of a ciphertext that is not what it has made with this key and context.
_ALTERED = ("message authentication failed", "invalid ciphertext", "illegal base64", "no prefix")


class VaultProvider:
    """Transit keys under KEYGUARD_VAULT_TRANSIT_PREFIX; see docs/deploy/vault.md for the policy."""

    remote = True
    batch = 100

    def make(self, kek: Kek) -> Made:
        name, mount = (
            f"{settings.KEYGUARD_VAULT_TRANSIT_PREFIX}-{kek.id}",
            settings.KEYGUARD_VAULT_TRANSIT_MOUNT,
        )
        # Asked for one that is there, Vault answers as if it had made it, whatever that one is.
        vault().call(
            "make a transit key",
            lambda client: client.secrets.transit.create_key(
                name, derived=True, exportable=False, key_type="aes256-gcm96", mount_point=mount
            ),
        )
        found = _read(name)
        if not found.get("derived") or found.get("exportable") or found.get("type") != "aes256-gcm96":
            raise KekRefusedError(
                f"the transit key {name} is not derived, or exportable, or not aes256-gcm96"
            )
        return Made(reference=name, version=int(found["latest_version"]))

    def open(self, kek: Kek) -> KekCipher:
        return _Cipher(kek.provider_ref, kek.version)

    def destroy(self, kek: Kek) -> str:
        return (
            f"Delete the transit key {kek.provider_ref} in Vault (set its deletion_allowed first): "
            "this role is not allowed to, and should not be."
        )

    def look(self, kek: Kek) -> str:
        found = _read(kek.provider_ref)
        least = max(
            int(found.get("min_decryption_version") or 1), int(found.get("min_available_version") or 0)
        )
        if least > kek.version:
            raise KekRefusedError(
                f"{kek.provider_ref}: Vault decrypts from version {least} on, and our keys are under version {kek.version}"
            )
        if int(found["latest_version"]) > kek.version:
            return (
                f"the transit key was rotated in Vault to version {found['latest_version']}, our keys are under version "
                f"{kek.version}: raise its min_decryption_version on no account before rotate_kek has moved them"
            )
        return ""


class _Cipher:
    def __init__(self, name: str, version: int) -> None:
        self._name, self._version = name, version

    def wrap(self, deks: Sequence[tuple[bytearray, bytes]]) -> list[WrappedDek]:
        items = [
            {"plaintext": _text(dek), "context": _text(bound), "key_version": self._version}
            for dek, bound in deks
        ]
        results = self._ask("encrypt_data", items)
        wrapped = [WrappedDek(b"", str(result["ciphertext"]).encode()) for result in results]
        if not all(one.ciphertext.startswith(f"vault:v{self._version}:".encode()) for one in wrapped):
            raise KekRefusedError(f"{self._name}: Vault encrypted with another version than {self._version}")
        return wrapped

    def unwrap(self, wrapped: Sequence[tuple[WrappedDek, bytes]]) -> list[bytearray]:
        prefix = f"vault:v{self._version}:".encode()
        if not all(one.ciphertext.startswith(prefix) and not one.nonce for one, _ in wrapped):
            raise MaterialTamperedError
        items = [{"ciphertext": one.ciphertext.decode(), "context": _text(bound)} for one, bound in wrapped]
        results = self._ask("decrypt_data", items)
        deks = [bytearray(base64.b64decode(result["plaintext"])) for result in results]
        if any(len(dek) != DEK_BYTES for dek in deks):
            wipe(*deks)
            raise MaterialTamperedError
        return deks

    def _ask(self, method: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return Vault's results. Raises MaterialTamperedError, or KekRefusedError when it is not a ciphertext's fault."""
        mount = settings.KEYGUARD_VAULT_TRANSIT_MOUNT
        given = {"plaintext": None} if method == "encrypt_data" else {"ciphertext": None}

        def act(client: Any) -> list[dict[str, Any]]:
            answer = getattr(client.secrets.transit, method)(
                name=self._name, batch_input=items, mount_point=mount, **given
            )
            return list(answer["data"]["batch_results"])

        try:
            results = vault().call("use a transit key", act)
        except VaultRefusedError as error:
            raise self._refusal(error.words) from None
        words = "; ".join(str(result["error"]) for result in results if result.get("error"))
        if words or len(results) != len(items):
            raise self._refusal(words)
        return results

    def _refusal(self, words: str) -> Exception:
        if any(sign in words for sign in _ALTERED) and "too old" not in words:
            return MaterialTamperedError()
        return KekRefusedError(f"{self._name}: {words[:200] or 'Vault gave another number of results'}")


def _read(name: str) -> dict[str, Any]:
    mount = settings.KEYGUARD_VAULT_TRANSIT_MOUNT
    try:
        return vault().call(
            "read a transit key",
            lambda client: dict(client.secrets.transit.read_key(name, mount_point=mount)["data"]),
        )
    except VaultRefusedError:
        raise KekRefusedError(f"Vault has no transit key {name}") from None


def _text(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()
