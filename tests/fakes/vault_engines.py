"""The two secrets engines of the Vault stand-in: KV version 2 and transit (aes256-gcm96, derived keys)."""

import base64
import hashlib
import hmac
import os
import re
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class RefusalError(Exception):
    def __init__(self, status: int, *errors: str, **extra: Any) -> None:
        super().__init__(status, errors)
        self.status, self.errors, self.extra = status, errors, extra


class Kv:
    """Versions by path. `versions[path][n]` is None when destroyed; `deleted[path]` has the soft-deleted ones."""

    def __init__(self) -> None:
        self.versions: dict[str, list[Any]] = {}
        self.deleted: dict[str, set[int]] = {}

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        kind, _, name = path.partition("/")
        if kind == "data" and method in ("POST", "PUT"):
            return self._write(name, body)
        if kind == "data" and method == "GET":
            return self._read(name, int(query.get("version") or 0))
        if kind == "metadata" and method == "DELETE":
            self.versions.pop(name, None)
            self.deleted.pop(name, None)
            return None
        for version in body.get("versions", []):
            if kind == "delete":
                self.deleted.setdefault(name, set()).add(version)
            elif kind == "undelete":
                self.deleted.get(name, set()).discard(version)
            elif kind == "destroy":
                self.versions[name][version - 1] = None
        return None

    def _write(self, name: str, body: Any) -> dict[str, Any]:
        current = len(self.versions.get(name, []))
        cas = body.get("options", {}).get("cas")
        if cas is not None and cas != current:
            raise RefusalError(400, "check-and-set parameter did not match the current version")
        self.versions.setdefault(name, []).append(body["data"])
        return self._metadata(name, current + 1)

    def _read(self, name: str, version: int) -> dict[str, Any]:
        version = version or len(self.versions.get(name, []))
        if not 0 < version <= len(self.versions.get(name, [])):
            raise RefusalError(404)
        data, metadata = self.versions[name][version - 1], self._metadata(name, version)
        if data is None or metadata["deletion_time"]:
            raise RefusalError(404, data={"data": None, "metadata": metadata})
        return {"data": data, "metadata": metadata}

    def _metadata(self, name: str, version: int) -> dict[str, Any]:
        gone = version in self.deleted.get(name, set())
        destroyed = self.versions[name][version - 1] is None
        when = "2026-01-01T00:00:00Z"
        return {
            "version": version,
            "created_time": when,
            "deletion_time": when if gone else "",
            "destroyed": destroyed,
        }


class Transit:
    """Keys by name, each a list of secrets, one for each version."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}

    def answer(self, method: str, path: str, body: Any) -> Any:
        kind, _, name = path.partition("/")
        if kind == "keys" and method == "GET":
            return self._described(name)
        if kind == "keys":
            # Made once; asked again, Vault changes nothing and says nothing.
            fresh = {"derived": bool(body.get("derived")), "least": 1, "secrets": [os.urandom(32)]}
            self.keys.setdefault(name, fresh)
            return None
        if kind not in ("encrypt", "decrypt"):
            raise RefusalError(404, "no handler for route")
        if name not in self.keys:
            raise RefusalError(400, "encryption key not found")
        work = self._encrypt if kind == "encrypt" else self._decrypt
        results, failed = [], False
        for item in body.get("batch_input") or [body]:
            try:
                results.append(work(self.keys[name], item))
            except RefusalError as refusal:
                failed = True
                results.append({"error": refusal.errors[0]})
        if "batch_input" not in body or body["batch_input"] is None:
            if failed:
                raise RefusalError(400, results[0]["error"])
            return results[0]
        if failed:  # one bad item, and the status is 400, with all results beside
            raise RefusalError(400, data={"batch_results": results})
        return {"batch_results": results}

    def rotate(self, name: str) -> None:
        self.keys[name]["secrets"].append(os.urandom(32))

    def _described(self, name: str) -> dict[str, Any]:
        if name not in self.keys:
            raise RefusalError(404)
        key = self.keys[name]
        return {
            "name": name,
            "type": "aes256-gcm96",
            "derived": key["derived"],
            "exportable": False,
            "latest_version": len(key["secrets"]),
            "min_decryption_version": key["least"],
            "min_available_version": 0,
        }

    def _encrypt(self, key: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
        version = item.get("key_version") or len(key["secrets"])
        nonce = os.urandom(12)
        sealed = AESGCM(_derived(key, version, item)).encrypt(
            nonce, base64.b64decode(item["plaintext"]), None
        )
        return {
            "ciphertext": f"vault:v{version}:{base64.b64encode(nonce + sealed).decode()}",
            "key_version": version,
        }

    def _decrypt(self, key: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
        found = re.fullmatch(r"vault:v(\d+):(.+)", item.get("ciphertext") or "")
        if not found:
            raise RefusalError(400, "invalid ciphertext: no prefix")
        version = int(found[1])
        if version > len(key["secrets"]):
            raise RefusalError(400, "invalid ciphertext: version is too new")
        if version < key["least"]:
            raise RefusalError(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            raw = base64.b64decode(found[2], validate=True)
        except ValueError:
            raise RefusalError(400, "illegal base64 data at input byte 0") from None
        try:
            plain = AESGCM(_derived(key, version, item)).decrypt(raw[:12], raw[12:], None)
        except (InvalidTag, ValueError):
            raise RefusalError(400, "cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plain).decode()}


def _derived(key: dict[str, Any], version: int, item: dict[str, Any]) -> bytes:
    secret: bytes = key["secrets"][version - 1]
    if not key["derived"]:
        return secret
    context = base64.b64decode(item.get("context") or "")
    if not context:
        raise RefusalError(400, "missing 'context' for key derivation")
    return hmac.new(secret, context, hashlib.sha256).digest()
