"""From the body of a JSON-RPC answer to results and errors. Pure."""

import re
from typing import Any

from signer.errors import CallRevertedError, RpcNodeError, RpcTooLargeError, RpcTransportError
from signer.rpc_errors import innermost_message

REVERTED_CODE = 3  # geth, anvil, erigon: "execution reverted", with the revert's data

# geth: "batch too large"; besu: "Number of requests in batch exceeds maximum"; hosted: "batch size", "batch limit".
TOO_LARGE = re.compile(
    r"batch.{0,40}(too (large|big|many|long)|limit|size|exceed)|too many .{0,30}batch|(request|payload|body|content).{0,20}too large",
    re.IGNORECASE,
)


def match(reply: Any, count: int) -> list[Any]:
    """Return a result or RpcError for each of `count` calls, whose ids were 0, 1, ...

    Nodes may answer a batch in any order, or in part. One error for the whole batch is every call's error.
    """
    if isinstance(reply, dict) and count > 1:
        whole = _result(reply) if "error" in reply else _missing()
        return [whole] * count
    answers: list[Any] = [_missing()] * count
    for item in [reply] if isinstance(reply, dict) else reply if isinstance(reply, list) else []:
        number = item.get("id") if isinstance(item, dict) else None
        if count == 1 and number is None and isinstance(item, dict) and "error" in item:
            number = 0  # an error before the request was read carries no id
        if isinstance(number, int) and 0 <= number < count:
            answers[number] = _result(item)
    return answers


def too_large(answers: list[Any]) -> RpcTooLargeError | None:
    """Return the error of a batch that was refused as a whole, unread, because it has too many calls."""
    if len(answers) > 1 and all(_says_too_large(answer) for answer in answers):
        return RpcTooLargeError(answers[0].message)
    return None


def _says_too_large(answer: Any) -> bool:
    is_refusal = isinstance(answer, RpcNodeError) and not isinstance(answer, CallRevertedError)
    return is_refusal and TOO_LARGE.search(answer.message) is not None


def _missing() -> RpcTransportError:
    return RpcTransportError("the node left this call out of its answer")


def _result(item: dict[str, Any]) -> Any:
    error = item.get("error")
    if error is None:
        if "result" in item:
            return item["result"]
        return RpcTransportError("an answer without a result")
    return node_error(error)


def node_error(error: Any) -> RpcNodeError:
    """Return the exception for a JSON-RPC error object; a revert becomes CallRevertedError with its reason."""
    message = innermost_message(error) or "error without a message"
    code = error.get("code") if isinstance(error, dict) else None
    data = error.get("data") if isinstance(error, dict) else None
    if isinstance(data, dict):  # proxies nest the node's answer
        data = data.get("data", data)
    if code == REVERTED_CODE or "execution reverted" in message.lower():
        return CallRevertedError(_revert_reason(message, data), data=data)
    return RpcNodeError(message, rpc_code=code, data=data)


def _revert_reason(message: str, data: Any) -> str:
    from signer.abi import decode_revert

    if isinstance(data, str) and data.startswith("0x") and len(data) > 2:
        try:
            return decode_revert(data)
        except ValueError:
            pass
    text = message.strip()
    for prefix in (
        "execution reverted:",
        "execution reverted",
        "VM Exception while processing transaction: revert",
    ):
        if text.lower().startswith(prefix.lower()):
            text = text[len(prefix) :].strip(" :")
            break
    return text or "reverted without a reason"


def quantity(value: Any) -> int:
    """Return the integer of a hex quantity; raises RpcTransportError where the node sent something else."""
    try:
        return int(value, 16)
    except (TypeError, ValueError):
        raise RpcTransportError("the node sent something that is not a quantity") from None
