"""Keys whose ciphertext is in Vault (KV v2) and whose wrapped DEK is in the database: neither is of use alone.

Upholds: what is stored is our own envelope, never a private key, so who may read Vault has nothing yet. Each key has a
path of its own, written once with check-and-set and read at that version; an answer that was lost is looked up before
anything is written again. What Vault has lost is a clear error and accuses no key; what it has altered does.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from hvac.exceptions import InvalidPath

from keyguard import curve
from keyguard.backend_errors import (
    VaultConflictError,
    VaultRefusedError,
    VaultSecretMissingError,
    VaultUnreachableError,
)
from keyguard.backends.kinds import Sign
from keyguard.crashpoints import crashpoint
from keyguard.errors import MaterialTamperedError
from keyguard.material import load_key, seal_key
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT, Origin
from keyguard.uris import KeyUri
from keyguard.vault_client import vault

VERSION = 1  # the only one we write; others are somebody else's


class VaultBackend:
    """KV v2 in Vault or OpenBao; see docs/deploy/vault.md."""

    def generate(self, alias: str, tenant: str = DEFAULT_TENANT) -> Key:
        secret = curve.new_secret()
        try:
            return self._store(alias, secret, Origin.GENERATED, tenant)
        finally:
            curve.wipe(secret)

    def adopt(self, alias: str, secret: bytearray, tenant: str = DEFAULT_TENANT) -> Key:
        return self._store(alias, secret, Origin.IMPORTED, tenant)

    def prepare(self, key: Key) -> Sign:
        return load_key(key, _parsed(_read(key.backend_ref))).sign

    def destroy(self, key: Key) -> None:
        """Have Vault forget the path with all its versions."""
        mount = settings.KEYGUARD_VAULT_KV_MOUNT

        def act(client: Any) -> None:
            client.secrets.kv.v2.delete_metadata_and_all_versions(key.backend_ref, mount_point=mount)

        vault().call("destroy a key", act)

    def probe(self, references: Sequence[str]) -> str:
        """Say how Vault stands, and read one key's ciphertext to see that we may. Raises a BackendError otherwise."""
        words = vault().health()
        vault().call("look its token up", lambda client: client.auth.token.lookup_self())
        if references:
            _read(references[0])
        return f"{words} and keeps {len(references)} keys"

    def _store(self, alias: str, secret: bytearray, origin: Origin, tenant: str) -> Key:
        key, material = seal_key(alias, secret, origin, "vault", tenant)
        key.backend_ref = f"{settings.KEYGUARD_VAULT_KV_PREFIX.strip('/')}/{key.id}"
        stored = {
            "format": "kg2",
            "address": key.address,
            "nonce": base64.b64encode(material.nonce).decode(),
            "ciphertext": base64.b64encode(material.ciphertext).decode(),
        }
        # Here it is a part of the key's material no longer: the DEK alone opens nothing.
        material.nonce = material.ciphertext = b""
        # The rows first: what they refuse, an alias that is taken, leaves nothing behind in Vault.
        key.save(force_insert=True)
        material.save(force_insert=True)
        write(key.backend_ref, stored)
        crashpoint("keyguard.vault_written")
        return key


def write(path: str, stored: dict[str, str]) -> None:
    """Put a new secret at a path where there is none. Raises VaultConflictError when there is another.

    After a BackendError it may be there or not. Without its rows in the database nothing can be done with it.
    """
    mount = settings.KEYGUARD_VAULT_KV_MOUNT

    def act(client: Any) -> None:
        answer = client.secrets.kv.v2.create_or_update_secret(path, stored, cas=0, mount_point=mount)
        if answer["data"]["version"] != VERSION:
            raise ValueError("not the first version")

    for last in (False, True):
        try:
            vault().call("store a key", act)
            return
        except (VaultUnreachableError, VaultRefusedError) as error:
            found = _found(path)
            if found == stored:
                return
            if found is not None:
                raise VaultConflictError(f"another secret is at {path}") from None
            if last or isinstance(error, VaultRefusedError):
                raise


def _found(path: str) -> Any:
    try:
        return _read(path)
    except VaultSecretMissingError as error:
        if error.is_deleted:
            raise VaultConflictError(f"a deleted secret is at {path}") from None
        return None


def _read(path: str) -> Any:
    mount = settings.KEYGUARD_VAULT_KV_MOUNT

    def act(client: Any) -> dict[str, Any]:
        try:
            answer = client.secrets.kv.v2.read_secret_version(
                path, version=VERSION, mount_point=mount, raise_on_deleted_version=True
            )
        except InvalidPath as error:
            # Of what is gone Vault says the rest, and answers 404 all the same.
            if not isinstance(error.json, dict) or not error.json.get("data"):
                raise
            answer = error.json
        return {"data": answer["data"]["data"], "metadata": answer["data"]["metadata"]}

    try:
        found = vault().call("read a key", act)
    except VaultRefusedError as error:
        if error.words != "not found":
            raise
        raise VaultSecretMissingError(
            f"nothing is at {KeyUri('vault', path)} in {mount}, version {VERSION}"
        ) from None
    if found["data"] is None:
        how = "destroyed" if found["metadata"].get("destroyed") else "deleted"
        missing = VaultSecretMissingError(
            f"version {VERSION} of {KeyUri('vault', path)} in {mount} was {how}"
        )
        missing.is_deleted = True
        raise missing
    return found["data"]


def _parsed(stored: Any) -> tuple[bytes, bytes]:
    """Return nonce and ciphertext. Raises MaterialTamperedError when that is not what we have written."""
    try:
        nonce, ciphertext = (
            base64.b64decode(stored[name], validate=True) for name in ("nonce", "ciphertext")
        )
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise MaterialTamperedError from None
    return nonce, ciphertext
