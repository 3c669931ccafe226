"""Compile Vyper contracts and keep the result beside the source, so that nobody needs the compiler to run the platform.

    python -m dalp.assets.contracts.compile [SOURCE.vy ...]

Without arguments it compiles every contract of this folder. A test compiles again and compares, so source and
artifact can't drift apart.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def compile_contract(source: Path) -> dict[str, Any]:
    """Return `{"compiler", "abi", "bytecode"}` of one Vyper source; the EVM version is the source's own pragma."""
    # Imported here because the compiler is a development dependency: the platform runs without it.
    import vyper

    # The name given is the bare file name: a full path would make the output differ between machines.
    outputs = vyper.compile_code(
        source.read_text(), contract_path=source.name, output_formats=["abi", "bytecode"]
    )
    return {"compiler": f"vyper {vyper.__version__}", "abi": outputs["abi"], "bytecode": outputs["bytecode"]}


def artifact_text(source: Path) -> str:
    """Return the artifact file's text, one line per ABI entry so that a change is readable in a diff."""
    artifact = compile_contract(source)
    abi = ",\n".join("    " + json.dumps(entry, sort_keys=True) for entry in artifact["abi"])
    return (
        f'{{\n  "compiler": {json.dumps(artifact["compiler"])},\n  "abi": [\n{abi}\n  ],\n'
        f'  "bytecode": {json.dumps(artifact["bytecode"])}\n}}\n'
    )


def write_artifacts(sources: Iterable[Path]) -> None:
    """Write `Name.json` beside each `Name.vy`."""
    for source in sources:
        target = source.with_suffix(".json")
        target.write_text(artifact_text(source))
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    write_artifacts([Path(argument) for argument in sys.argv[1:]] or sorted(FOLDER.glob("*.vy")))
