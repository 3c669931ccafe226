"""secp256k1 on secrets that can be wiped. Pure: no database, no clock.

A secret is a bytearray that its owner overwrites after use. coincurve's `PrivateKey` would copy it into bytes, which
nothing can overwrite, so this module calls the libsecp256k1 under coincurve directly. It never puts a secret in an
exception.
"""

from functools import lru_cache

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = ORDER // 2


def random_bytes(size: int) -> bytearray:
    """Return random bytes of the operating system in a buffer that can be wiped (`os.urandom` returns bytes)."""
    buffer = bytearray(size)
    with open("/dev/urandom", "rb", buffering=0) as source:
        if source.readinto(buffer) != size:
            raise OSError("the operating system gave too few random bytes")
    return buffer


def wipe(*buffers: bytearray) -> None:
    """Overwrite the buffers with zeros, in place."""
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def is_secret(secret: bytearray) -> bool:
    """Say whether the bytes are a private key: 32 bytes, 0 < key < n."""
    return len(secret) == 32 and bool(lib.secp256k1_ec_seckey_verify(GLOBAL_CONTEXT.ctx, _view(secret)))


def new_secret() -> bytearray:
    """Return a new private key. The caller wipes it."""
    secret = random_bytes(32)
    while not is_secret(secret):  # once in 2^128
        secret = random_bytes(32)
    return secret


def public_key(secret: bytearray) -> bytes:
    """Return the public key, 65 bytes: 04, X, Y."""
    point = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_create(GLOBAL_CONTEXT.ctx, point, _view(secret)):
        raise ValueError("not a private key")
    return _uncompressed(point)


def sign(secret: bytearray, digest: bytes) -> bytes:
    """Return the signature of a 32-byte digest, 65 bytes: r, s, recovery id. Deterministic (RFC 6979)."""
    if len(digest) != 32 or len(secret) != 32:
        raise ValueError("digest and secret must be 32 bytes")
    made = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    context = GLOBAL_CONTEXT.ctx
    if not lib.secp256k1_ecdsa_sign_recoverable(context, made, digest, _view(secret), ffi.NULL, ffi.NULL):
        raise ValueError("not a private key")
    output, parity = ffi.new("unsigned char[64]"), ffi.new("int *")
    lib.secp256k1_ecdsa_recoverable_signature_serialize_compact(context, output, parity, made)
    return bytes(ffi.buffer(output, 64)) + bytes([parity[0]])


def low_s(signature: bytes) -> bytes:
    """Return the signature with s in the lower half of the order; the recovery id flips when s does.

    signature: 65 bytes r, s, recovery id (0 or 1). Raises ValueError when it is malformed or r or s is not in
    1 to n - 1. Nodes refuse a high s. Source: EIP-2.
    """
    if len(signature) != 65 or signature[64] > 1:
        raise ValueError("a signature is 65 bytes: r, s and a recovery id of 0 or 1")
    r, s, parity = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
    if not (0 < r < ORDER and 0 < s < ORDER):
        raise ValueError("r or s is out of range")
    if s <= HALF_ORDER:
        return signature
    return signature[:32] + (ORDER - s).to_bytes(32) + bytes([parity ^ 1])


def with_recovery_id(rs: bytes, digest: bytes, public: bytes) -> bytes:
    """Return r and s, 64 bytes, with s in the lower half and the recovery id that leads to this public key.

    For signers that give no recovery id: it is found by trial. Raises ValueError when neither leads there.
    """
    if len(rs) != 64:
        raise ValueError("r and s are 64 bytes")
    for parity in (0, 1):
        candidate = low_s(rs + bytes([parity]))
        try:
            if recover(candidate, digest) == public:
                return candidate
        except ValueError:  # there is no such point for this one
            continue
    raise ValueError("the signature is not the pinned key's")


def recover(signature: bytes, digest: bytes) -> bytes:
    """Return the public key, 65 bytes, that made this signature. Raises ValueError when there is none."""
    if len(signature) != 65 or signature[64] > 3 or len(digest) != 32:
        raise ValueError("a signature is 65 bytes and a digest 32")
    context = GLOBAL_CONTEXT.ctx
    made, point = ffi.new("secp256k1_ecdsa_recoverable_signature *"), ffi.new("secp256k1_pubkey *")
    parsed = lib.secp256k1_ecdsa_recoverable_signature_parse_compact(
        context, made, signature[:64], signature[64]
    )
    if not parsed or not lib.secp256k1_ecdsa_recover(context, point, made, digest):
        raise ValueError("the signature recovers to no key")
    return _uncompressed(point)


def uncompressed(public: bytes) -> bytes:
    """Return a public key of 33 or 65 bytes with 65: 04, X, Y. Raises ValueError when it is none."""
    point = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(GLOBAL_CONTEXT.ctx, point, public, len(public)):
        raise ValueError("not a public key")
    return _uncompressed(point)


def address_of(public: bytes) -> str:
    """Return the checksummed address of a public key of 65 bytes."""
    return checksummed(f"0x{keccak(public[1:])[12:].hex()}")


@lru_cache(maxsize=4096)  # a fifth of the cost of a signature otherwise, for the same few addresses
def checksummed(address: str) -> str:
    """Return a well-formed address with its EIP-55 checksum."""
    return str(to_checksum_address(address))


def _uncompressed(point: object) -> bytes:
    output, size = ffi.new("unsigned char[65]"), ffi.new("size_t *", 65)
    lib.secp256k1_ec_pubkey_serialize(GLOBAL_CONTEXT.ctx, output, size, point, lib.SECP256K1_EC_UNCOMPRESSED)
    return bytes(ffi.buffer(output, 65))


def _view(secret: bytearray) -> object:
    return ffi.from_buffer("unsigned char[]", secret)
