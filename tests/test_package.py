"""The package's shape: what imports what, and what import does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import matplotlib

import clearcap
from clearcap.config import load_preset, presets

ROOT = Path(clearcap.__file__).parent

# Lowest first; a module imports its own layer's package and lower layers only.
LAYERS = (
    {"errors", "config", "checkpoint", "layers", "schedule", "metrics"},
    {"text", "vision", "levels", "fused", "denoiser", "diffusion", "data"},
    {"guidance", "sampling", "refine", "selection"},
    {
        "network",
        "captioner",
        "assemble",
        "loading",
        "pipeline",
        "infill",
        "trajectory",
        "hub",
        "packed",
        "onnx",
    },
    {"training", "evaluation", "convert", "bulk", "parity"},
    {"cli", "demo", "serve", "bench", "__main__", "__init__"},
)


def layer_of(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    raise AssertionError(f"clearcap.{module} is in no layer; give it one in tests/test_package.py")


def imports_of(file: Path) -> set[str]:
    """First components below clearcap that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clearcap"):
            names = [node.module] if node.module != "clearcap" else [f"clearcap.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name and name.startswith("clearcap.")}
    return found


def test_imports_point_downwards() -> None:
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        here = file.relative_to(ROOT).parts[0].removesuffix(".py")
        for there in imports_of(file) - {here}:
            is_module = (ROOT / there).exists() or (ROOT / f"{there}.py").exists()
            if is_module and layer_of(there) > layer_of(here):
                wrong.append(f"{file.relative_to(ROOT)} imports clearcap.{there}")
    assert not wrong


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, clearcap; print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_command_line_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['clearcap', '--help']\nfrom clearcap.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


HEAVY = {  # each slower to import than a photo is to caption; transformers' models pull in most of them
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.onnx",
    "torchvision",
    "transformers",
}


def test_captioning_imports_nothing_that_it_does_not_use() -> None:
    code = (
        "import sys\nfrom clearcap.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    command = [sys.executable, "-c", code, "caption", str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    caption, heavy = done.stdout.strip().splitlines()
    assert " man " in f" {caption} "
    assert heavy == "[]"


def test_every_preset_loads() -> None:
    assert "compact" in presets()
    for name in presets():
        load_preset(name)
