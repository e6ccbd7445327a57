"""The import rules of DESIGN section 4, and the length of modules."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {path.stem for path in (ROOT / "plywire").glob("*.py")} - {"__init__"}
FORBIDDEN_IN_CORES = {"zmq", "grpc", "msgpack", "asyncio", "threading", "socket", "os", "time"}
APP_SHELL = {"bridge", "servicer", "server", "transfer", "health", "__main__"}
LENGTH_LIMIT = 600


def modules(folder: str) -> list[Path]:
    generated = ("_pb2.py", "_pb2_grpc.py")
    paths = (ROOT / folder).rglob("*.py")
    return sorted(path for path in paths if not path.name.endswith(generated))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, with full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top(module: str) -> str:
    return module.split(".")[0]


def is_core(path: Path) -> bool:
    parts = path.relative_to(ROOT / "services").parts
    if len(parts) < 2 or path.name == "__main__.py" or "devices" in parts:
        return False
    return not (parts[0] == "app" and path.stem in APP_SHELL)


CORES = [path for path in modules("services") if is_core(path)]
DEVICES = [path for path in modules("services") if "devices" in path.parts]


def test_there_is_something_to_check():
    assert {"link", "ip", "tcp", "app"} <= {path.parent.name for path in CORES}
    assert {"link", "link_tunnel", "tcp_host"} <= {path.parents[1].name for path in DEVICES}
    assert {"messages", "envelope", "seq", "timers", "trace"} <= KERNEL


@pytest.mark.parametrize("path", modules("plywire/wire"), ids=name)
def test_wire_codecs_import_the_standard_library_and_errors_only(path):
    for module in imports(path):
        allowed = module.startswith(("plywire.wire.", "plywire.errors.")) or (
            top(module) in sys.stdlib_module_names
        )
        assert allowed, module


@pytest.mark.parametrize("path", sorted((ROOT / "plywire").glob("*.py")), ids=name)
def test_the_kernel_imports_the_kernel_only(path):
    for module in imports(path):
        if top(module) == "plywire":
            assert module.split(".")[1] in KERNEL | {"wire"}, module
        elif top(module) == "msgpack":
            assert path.stem == "envelope", module
        else:
            assert top(module) in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", modules("plywire") + modules("services"), ids=name)
def test_only_the_runtime_imports_zmq_and_only_the_envelope_msgpack(path):
    used = {top(module) for module in imports(path)}
    runtime = "plywire/runtime" in name(path)
    assert "zmq" not in used or runtime
    assert "msgpack" not in used or path == ROOT / "plywire" / "envelope.py"


@pytest.mark.parametrize("path", CORES, ids=name)
def test_cores_import_the_kernel_and_their_own_package_only(path):
    own = f"services.{path.relative_to(ROOT / 'services').parts[0]}"
    for module in imports(path):
        assert top(module) not in FORBIDDEN_IN_CORES, module
        if top(module) == "plywire":
            assert module.split(".")[1] in KERNEL | {"wire"}, module
        elif top(module) == "services":
            assert f"{module}.".startswith(f"{own}."), module
        else:
            assert top(module) in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", CORES, ids=name)
def test_cores_have_no_randomness_of_their_own(path):
    """`random` may be imported for its type; calling into the module would be ambient."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "random" or node.attr == "Random", ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "random.Random", "rng comes through the factory"


@pytest.mark.parametrize("path", DEVICES, ids=name)
def test_devices_import_the_kernel_the_runtime_and_their_own_package_only(path):
    """They do the I/O of a core, so the standard library is theirs; the loop is the shell's."""
    own = f"services.{path.relative_to(ROOT / 'services').parts[0]}"
    for module in imports(path):
        if top(module) == "plywire":
            assert module.split(".")[1] in KERNEL | {"wire", "runtime"}, module
        elif top(module) == "services":
            assert f"{module}.".startswith(f"{own}."), module
        else:
            assert top(module) in sys.stdlib_module_names - {"asyncio", "threading"}, module


@pytest.mark.parametrize("path", modules("services"), ids=name)
def test_no_service_imports_another(path):
    parts = path.relative_to(ROOT / "services").parts
    if len(parts) < 2:
        return
    for module in imports(path):
        if top(module) == "services" and module != "services":
            assert module.split(".")[1] == parts[0], module


@pytest.mark.parametrize("path", modules("plywire"), ids=name)
def test_only_the_lab_may_import_services(path):
    if "services" in {top(module) for module in imports(path)}:
        assert "plywire/lab" in name(path)


@pytest.mark.parametrize("path", modules("plywire") + modules("services"), ids=name)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) <= LENGTH_LIMIT
