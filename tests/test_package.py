"""The house: what imports what, how far a photo and a training step travel, and what import does."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import clearcap
from clearcap.config import load_preset, presets
from clearcap.moved import NAMES
from docs.site.house import imported

ROOT = Path(clearcap.__file__).parent

# Lowest first; a module imports its own room and lower floors only.
FLOORS = (
    {"errors"},
    {"registry", "moved"},
    {"config"},
    {"data"},
    {"arrays", "metrics"},
    {"text", "vision", "denoiser"},
    {"diffusion"},
    {"sampling"},
    {"captioner"},
    {"pipeline"},
    {"training", "evaluation"},
    {"convert"},  # replays training steps too
    {"studies", "bulk", "service", "demo", "bench"},
    {"cli"},
    {"__main__", "__init__"},
)
ROOT_MODULES, ROOMS_ARROWS = 8, 110
CAPTION_FILES, STEP_FILES = 15, 10


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = ("clearcap", *file.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports_of(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, wherever in the file, but for type checking alone."""
    names = (name for name in imported(file) if name.split(".")[0] == "clearcap")
    return {name if name in known else name.rpartition(".")[0] for name in names}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor_of(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"clearcap.{room} is on no floor; give it one in tests/test_package.py")


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(file, known) for name, file in known.items()}


def test_imports_point_downwards(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{here} imports {there}"
        for here, targets in graph.items()
        for there in targets
        if there != "clearcap"
        and room_of(here) != room_of(there)
        and floor_of(room_of(there)) >= floor_of(room_of(here))
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle(graph: dict[str, set[str]]) -> None:
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph.get(module, ())
        reached[start] = seen
    assert not sorted(module for module, seen in reached.items() if module in seen)


def test_few_modules_lie_at_the_root_and_few_arrows_lead_from_room_to_room(
    graph: dict[str, set[str]],
) -> None:
    assert len(list(ROOT.glob("*.py"))) <= ROOT_MODULES
    arrows = {
        (room_of(here), room_of(there))
        for here, targets in graph.items()
        for there in targets
        if room_of(here) != room_of(there)
    }
    assert len(arrows) <= ROOMS_ARROWS


class Visits:
    """The package's files whose functions run inside the ``with`` block."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def __enter__(self) -> Visits:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *about: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: object, event: str, argument: object) -> None:
        name = frame.f_code.co_filename  # type: ignore[attr-defined]
        if event == "call" and name.startswith(str(ROOT)):
            self.files.add(name.removeprefix(f"{ROOT}/"))


def test_a_warm_caption_visits_few_files(tmp_path: Path) -> None:
    from clearcap import CaptionPipeline

    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)).save(photo)
    pipeline = CaptionPipeline.from_pretrained(backend="fast")
    cold = pipeline(photo)
    with Visits() as visits:
        warm = pipeline(photo)
    assert warm == cold
    assert "pipeline/pipeline.py" in visits.files
    assert len(visits.files) <= CAPTION_FILES, sorted(visits.files)


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


def test_old_module_names_warn_and_give_the_same_modules() -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    import clearcap.infill as old\n"
        "    from clearcap.selection import diverse\n"
        "import clearcap.pipeline.infilling as new\n"
        "assert old is new and new.__spec__.name == 'clearcap.pipeline.infilling'\n"
        "print([str(one.message) for one in told if 'clearcap' in str(one.message)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "clearcap.infill is clearcap.pipeline.infilling now" in done.stdout
    assert "clearcap.selection is clearcap.sampling.selection now" in done.stdout


@pytest.mark.filterwarnings("ignore::clearcap.errors.RenamedWarning")
def test_names_that_did_not_move_with_their_module_are_found_by_its_old_name() -> None:
    import clearcap.loading as old  # type: ignore[import-not-found]

    from clearcap.captioner.folder import bundled_model

    for module, names in NAMES.items():
        for name, place in names.items():
            assert getattr(importlib.import_module(module), name) is getattr(
                importlib.import_module(place), name
            )
    assert old.bundled_model is bundled_model
    with pytest.raises(AttributeError, match=r"'clearcap\.loading' has no attribute 'nosuch'"):
        _ = old.nosuch
