"""The second client that the signer is proved against: EthereumJS, with an EVM, a pool and an RPC of its own.

It mines nothing by itself. `Consensus` stands for its consensus client and says through the Engine API what the chain is:
which block comes next, which blocks are replaced, which are final.
"""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount

from dalp.local.processes import ROOT, LocalError
from dalp.local.servers import HOST, Rpc, RpcCallError, Server, free_port

CHAIN_ID = 31337
# Holds all the money of the chain's first block.
FAUCET: LocalAccount = Account.from_key(b"\x01" * 32)
ZERO_HASH = "0x" + "0" * 64
FORKS = (
    "homestead", "eip150", "eip155", "eip158", "byzantium", "constantinople", "petersburg", "istanbul", "berlin",
    "london", "mergeNetsplit",
)  # fmt: skip
CANCUN = {"target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477}
GENESIS = {
    "nonce": "0x0",
    "extraData": "0x",
    "gasLimit": hex(30_000_000),
    "difficulty": "0x0",
    "mixHash": ZERO_HASH,
    "coinbase": "0x" + "0" * 40,
    "baseFeePerGas": hex(10**9),
}


class EthereumJs(Server):
    """One node with no peers. What it was sent and no block holds is gone when it is started again."""

    name = "EthereumJS"

    def __init__(self) -> None:
        super().__init__(None)
        self.engine_port, self.peer_port = free_port(), free_port()
        self.rpc, self.engine = Rpc(self.url), Rpc(f"http://{HOST}:{self.engine_port}")
        config = {
            "chainId": CHAIN_ID,
            **{f"{fork}Block": 0 for fork in FORKS},
            "shanghaiTime": 0,
            "cancunTime": 0,
            "terminalTotalDifficulty": 0,
            "terminalTotalDifficultyPassed": True,
            "blobSchedule": {"cancun": CANCUN},
        }
        money = {FAUCET.address.removeprefix("0x"): {"balance": hex(10**24)}}
        # Blocks are a second apart, and soon enough a minute's worth of them is mined.
        genesis = {"config": config, **GENESIS, "timestamp": hex(int(time.time()) - 60), "alloc": money}
        (self.directory / "genesis.json").write_text(json.dumps(genesis))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        ports = {"rpcPort": self.port, "rpcEnginePort": self.engine_port, "port": self.peer_port}
        return [
            client_binary(),
            f"--gethGenesis={self.directory / 'genesis.json'}",
            f"--dataDir={self.directory / 'data'}",
            *(f"--{name}={port}" for name, port in ports.items()),
            *(f"--{name}={HOST}" for name in ("rpcAddr", "rpcEngineAddr")),
            *("--rpc", "--rpcEngine", "--rpcEngineAuth=false", "--sync=none", "--isSingleNode", "--saveReceipts"),
            *("--discV4=false", "--discDns=false", "--logFile=false"),
        ]  # fmt: skip

    def answers(self) -> bool:
        try:
            self.engine("engine_exchangeCapabilities", [], timeout=1)
            return int(self.rpc("eth_chainId", timeout=1), 16) == CHAIN_ID
        except (requests.RequestException, RpcCallError):
            return False

    def give(self, address: str, wei: int) -> None:
        """Send money to the address; it is there after the next block."""
        transaction = {
            "chainId": CHAIN_ID,
            "nonce": int(self.rpc("eth_getTransactionCount", FAUCET.address.lower(), "pending"), 16),
            "to": address,
            "value": wei,
            "gas": 21_000,
            "gasPrice": 3 * 10**9,
        }
        self.rpc("eth_sendRawTransaction", FAUCET.sign_transaction(transaction).raw_transaction.to_0x_hex())


def client_binary() -> Path:
    binary = ROOT / "node_modules/.bin/ethereumjs"
    if not binary.exists():
        raise LocalError("EthereumJS is missing: run `make setup`, which gets it from npm and needs Node 20.")
    return binary


class Consensus:
    """What a consensus client would tell the node, in the hands of a test."""

    def __init__(self, node: EthereumJs) -> None:
        self.node = node
        self.finalized = ZERO_HASH
        self._built = itertools.count(1)

    def head(self) -> str:
        return str(self.node.rpc("eth_getBlockByNumber", "latest", False)["hash"])

    def mine(self, blocks: int = 1) -> list[str]:
        """Have the node make so many blocks of what its pool holds, each upon the one before; return their hashes."""
        return [self.build_on(self.head()) for _ in range(blocks)]

    def build_on(self, parent_hash: str) -> str:
        """Have the node make a block upon this one, and make it the newest of the chain; return its hash.

        A transaction of a block that is replaced so is not in the pool any more: the node forgets it.
        """
        parent = self.node.rpc("eth_getBlockByHash", parent_hash, False)
        attributes = {
            "timestamp": hex(int(parent["timestamp"], 16) + 1),
            # Else a second block upon the same parent would be the first one again.
            "prevRandao": f"0x{next(self._built):064x}",
            "suggestedFeeRecipient": "0x" + "c0" * 20,
            "withdrawals": [],
            "parentBeaconBlockRoot": ZERO_HASH,
        }
        payload_id = self.choose(parent_hash, attributes)
        payload = self.node.engine("engine_getPayloadV3", payload_id)["executionPayload"]
        # No blobs are mined here: the list of their hashes is empty.
        answer = self.node.engine("engine_newPayloadV3", payload, [], ZERO_HASH)
        assert answer["status"] == "VALID", answer
        self.choose(payload["blockHash"])
        return str(payload["blockHash"])

    def reorganise(self, depth: int) -> list[str]:
        """Replace the newest blocks by as many others and one more; return the hashes of those replaced, newest first."""
        replaced = [self.head()]
        for _ in range(depth):
            block = self.node.rpc("eth_getBlockByHash", replaced[-1], False)
            replaced.append(block["parentHash"])
        parent = replaced.pop()
        for _ in range(depth + 1):
            parent = self.build_on(parent)
        return replaced

    def finalize(self, number: int) -> None:
        """Say that the block and all below it will never be replaced."""
        self.finalized = self.node.rpc("eth_getBlockByNumber", hex(number), False)["hash"]
        self.choose(self.head())

    def choose(self, block_hash: str, attributes: dict[str, Any] | None = None) -> str | None:
        """Make a block that the node has, of whatever fork, the newest; attributes: of the block to make upon it.

        Returns the id of the block in the making.
        """
        state = {
            "headBlockHash": block_hash,
            "safeBlockHash": self.finalized,
            "finalizedBlockHash": self.finalized,
        }
        answer = self.node.engine("engine_forkchoiceUpdatedV3", state, attributes)
        assert answer["payloadStatus"]["status"] == "VALID", answer
        return answer["payloadId"]
