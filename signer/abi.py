"""Calls, constructors, events and revert reasons in the ABI's encoding. Pure: no node, no database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import collapse_if_tuple
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

Abi = Sequence[Mapping[str, Any]]

ERROR_SELECTOR = keccak(text="Error(string)")[:4]
PANIC_SELECTOR = keccak(text="Panic(uint256)")[:4]
# Source: Solidity documentation, "Panic via assert and Error via require".
PANICS = {
    0x00: "compiler panic",
    0x01: "assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "invalid enum value",
    0x22: "corrupt storage byte array",
    0x31: "pop from an empty array",
    0x32: "array index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialised function",
}


class LogEntry(Protocol):
    """What an event is decoded from: the log of a receipt."""

    @property
    def address(self) -> str: ...
    @property
    def topics(self) -> Sequence[str]: ...
    @property
    def data(self) -> str: ...


def _types(parameters: Iterable[Mapping[str, Any]]) -> list[str]:
    return [collapse_if_tuple(dict(parameter)) for parameter in parameters]


def _signature(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(_types(entry.get('inputs', ())))})"


def selector(entry: Mapping[str, Any]) -> bytes:
    """Return the four bytes by which a function or an error is called."""
    return keccak(text=_signature(entry))[:4]


def event_topic(entry: Mapping[str, Any]) -> str:
    """Return the topic by which the logs of an event are known."""
    return "0x" + keccak(text=_signature(entry)).hex()


def _prepared(parameter: Mapping[str, Any], value: Any) -> Any:
    """Turn what callers write into what the codec takes: hex text into bytes, mappings into tuples."""
    kind = str(parameter["type"])
    if kind.endswith("]"):
        item = {**parameter, "type": kind[: kind.rindex("[")]}
        return [_prepared(item, each) for each in value]
    if kind == "tuple":
        components = parameter["components"]
        if isinstance(value, Mapping):
            value = [value[component["name"]] for component in components]
        return tuple(_prepared(component, each) for component, each in zip(components, value, strict=True))
    if kind.startswith("bytes") and isinstance(value, str):
        return bytes.fromhex(value.removeprefix("0x"))
    return value


def _presented(parameter: Mapping[str, Any], value: Any) -> Any:
    """Turn what the codec gives into what callers read: addresses checksummed, tuples as mappings by name."""
    kind = str(parameter["type"])
    if kind.endswith("]"):
        item = {**parameter, "type": kind[: kind.rindex("[")]}
        return [_presented(item, each) for each in value]
    if kind == "tuple":
        pairs = zip(parameter["components"], value, strict=True)
        return {component["name"]: _presented(component, each) for component, each in pairs}
    if kind == "address":
        return to_checksum_address(value)
    return value


def encode_arguments(parameters: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> bytes:
    """Encode `values` for `parameters` of an ABI entry; ValueError names what does not fit."""
    if len(parameters) != len(values):
        raise ValueError(f"takes {len(parameters)} arguments, got {len(values)}")
    prepared = [_prepared(parameter, value) for parameter, value in zip(parameters, values, strict=True)]
    try:
        return encode(_types(parameters), prepared)
    except EncodingError as error:
        raise ValueError(str(error)) from None


def decode_values(parameters: Sequence[Mapping[str, Any]], data: bytes) -> list[Any]:
    """Decode the values of `parameters` from `data`; ValueError when `data` holds something else."""
    try:
        values = decode(_types(parameters), data)
    except DecodingError as error:
        raise ValueError(str(error)) from None
    return [_presented(parameter, value) for parameter, value in zip(parameters, values, strict=True)]


def encode_constructor(abi: Abi, bytecode: str, *args: Any) -> str:
    """Return the data of the transaction that creates a contract: `bytecode` followed by the encoded arguments."""
    constructor = next((entry for entry in abi if entry["type"] == "constructor"), {"inputs": ()})
    return "0x" + bytecode.removeprefix("0x") + encode_arguments(constructor.get("inputs", ()), args).hex()


@dataclass(frozen=True)
class Contract:
    """An ABI, and the address it lives at when there is one."""

    abi: Abi = field(repr=False)
    address: str | None = None

    def at(self, address: str) -> "Contract":
        return Contract(self.abi, to_checksum_address(address))

    def encode(self, function: str, *args: Any) -> str:
        """Return the data that calls `function`; a full signature picks one of several of the same name."""
        entry = self._function(function, len(args))
        return "0x" + (selector(entry) + encode_arguments(entry["inputs"], args)).hex()

    def decode(self, function: str, data: bytes, arguments: int | None = None) -> Any:
        """Return what `function` answered: nothing, the value, or a list of the values.

        arguments: how many the call had; tells overloads apart.
        """
        outputs = self._function(function, arguments)["outputs"]
        if outputs and not data:
            raise ValueError(f"{function} answered nothing: no contract at {self.address}?")
        values = decode_values(outputs, data)
        return values if len(values) > 1 else (values[0] if values else None)

    def event(self, name: str, logs: Iterable[LogEntry]) -> list[dict[str, Any]]:
        """Return the arguments of each event `name` in `logs`, in order; of this contract only, if it has an address."""
        entry = next(
            (entry for entry in self.abi if entry["type"] == "event" and entry["name"] == name), None
        )
        if entry is None:
            raise ValueError(f"no event {name!r} in this ABI")
        topic = event_topic(entry)
        matching = (log for log in logs if log.topics and log.topics[0].lower() == topic)
        return [
            event_arguments(entry, log)
            for log in matching
            if self.address is None or log.address.lower() == self.address.lower()
        ]

    def decode_revert(self, data: str) -> str:
        """Return the reason in a revert's data, with the custom errors of this ABI."""
        return decode_revert(data, self.abi)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The custom errors of this ABI: what a transaction request needs to have its reverts understood."""
        return [dict(entry) for entry in self.abi if entry["type"] == "error"]

    @cached_property
    def _functions(self) -> list[Mapping[str, Any]]:
        return [entry for entry in self.abi if entry["type"] == "function"]

    def _function(self, name: str, arguments: int | None) -> Mapping[str, Any]:
        if "(" in name:
            found = [entry for entry in self._functions if _signature(entry) == name]
        else:
            found = [entry for entry in self._functions if entry["name"] == name]
            if len(found) > 1 and arguments is not None:
                found = [entry for entry in found if len(entry["inputs"]) == arguments]
        if len(found) != 1:
            raise ValueError(f"{name!r}: {len(found) or 'no'} such functions in this ABI")
        return found[0]


def event_arguments(entry: Mapping[str, Any], log: LogEntry) -> dict[str, Any]:
    """Return the arguments of an event by name. Raises ValueError where the log is not one of this event."""
    indexed = [parameter for parameter in entry["inputs"] if parameter["indexed"]]
    plain = [parameter for parameter in entry["inputs"] if not parameter["indexed"]]
    values = dict(
        zip(
            (parameter["name"] for parameter in plain),
            decode_values(plain, bytes.fromhex(log.data.removeprefix("0x"))),
            strict=True,
        )
    )
    for parameter, topic in zip(indexed, log.topics[1:], strict=True):
        values[parameter["name"]] = _topic_value(parameter, topic)
    return {parameter["name"]: values[parameter["name"]] for parameter in entry["inputs"]}


def _topic_value(parameter: Mapping[str, Any], topic: str) -> Any:
    kind = str(parameter["type"])
    if kind in {"string", "bytes", "tuple"} or kind.endswith("]"):
        return topic  # only its hash is in the log
    return decode_values([parameter], bytes.fromhex(topic.removeprefix("0x")))[0]


def decode_revert(data: str, abi: Abi = ()) -> str:
    """Return the reason in the data of a revert, as a person would want to read it.

    data: 0x text. Knows Error(string), Panic(uint256) and the custom errors of `abi`; of an unknown error it gives
    selector and data, so that nothing is lost.
    """
    raw = bytes.fromhex(data.removeprefix("0x"))
    if not raw:
        return "reverted without a reason"
    try:
        return _known_reason(raw, abi)
    except (DecodingError, ValueError, OverflowError):
        return f"reverted with data {data}"


def _known_reason(raw: bytes, abi: Abi) -> str:
    head, body = raw[:4], raw[4:]
    if head == ERROR_SELECTOR:
        return str(decode(["string"], body)[0])
    if head == PANIC_SELECTOR:
        code = int(decode(["uint256"], body)[0])
        return f"panic 0x{code:02x}: {PANICS.get(code, 'unknown')}"
    for entry in abi:
        if entry["type"] == "error" and selector(entry) == head:
            values = decode_values(entry["inputs"], body)
            return f"{entry['name']}({', '.join(map(str, values))})"
    return f"custom error 0x{head.hex()} with data 0x{body.hex()}"
