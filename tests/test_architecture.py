"""The rooms know each other only as the architecture allows, and the light import stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

MAY_IMPORT = {
    "common": set(),
    "records": set(),
    "audit": {"records"},
    "synthesis": {"records", "audit", "model"},
    "curriculum": {"records", "losses"},
    "model": {"records"},
    "distributed": set(),
    "losses": {"records", "distributed"},
    "encoding": {"records", "model", "distributed"},
    "mining": {"records", "model", "distributed", "encoding", "evaluation"},
    "training": {"records", "curriculum", "model", "distributed", "losses"},
    "evaluation": {"records", "curriculum", "model"},
    "ablation": {"records", "curriculum", "model", "distributed", "training", "evaluation"},
    "report": set(),
    "serving": {"model"},
    "hub": {"records", "model", "training"},
}
HEAVY = ("torch", "transformers", "deepspeed", "mteb", "vllm", "datasets")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_whom_they_may(room: str) -> None:
    paths = list(Path("mgh_ds", room).rglob("*.py"))
    assert paths
    for path in paths:
        rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("mgh_ds.")}
        assert not (rooms & MAY_IMPORT.keys()) - MAY_IMPORT[room] - {room, "common"}, path
        assert rooms <= MAY_IMPORT.keys() | {"Encoder", "__version__"}, path


def test_the_attention_package_knows_no_room() -> None:
    for path in Path("kernels/ata_attention").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        allowed = {"torch", "triton", "ata_attention"} | set(sys.stdlib_module_names)
        if path.name == "transformers.py":
            allowed.add("transformers")
        assert roots <= allowed, path


def test_importing_the_attention_package_is_light() -> None:
    code = "import sys, ata_attention; print([n for n in ('transformers', 'triton') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_importing_mgh_ds_and_its_command_line_is_light() -> None:
    code = f"import sys, mgh_ds, mgh_ds.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
