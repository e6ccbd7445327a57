"""Makes the stubs in this folder from `proto/`: `python -m plywire.rpc.generate`."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate() -> dict[str, str]:
    """The stubs as file name -> text, with imports that fit this package."""
    from grpc_tools import protoc

    sources = sorted((ROOT / "proto").glob("plywire/*/v1/*.proto"))
    stubs = {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            *map(str, sources),
        ]
        if protoc.main(arguments):
            raise SystemExit("protoc failed")
        for path in sorted(Path(folder).rglob("*.py")):
            package = ".".join(path.parent.relative_to(folder).parts)
            text = path.read_text()
            stubs[path.name] = text.replace(f"from {package} import", "from plywire.rpc import")
    return stubs


if __name__ == "__main__":
    for name, text in generate().items():
        (Path(__file__).parent / name).write_text(text)
