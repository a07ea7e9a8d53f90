"""Parts by name: built-in ones, registered ones, and those of plug-ins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clearcap import registry
from clearcap.config import SamplingConfig
from clearcap.errors import InputError
from clearcap.sampling.solvers import ddim, solver, times_of

PLUGIN = """
from clearcap.registry import register

@register("spacing", "{name}")
def two(train_steps, steps):
    return [train_steps - 1, train_steps // 2, 0]
"""


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_ADDED", {kind: {} for kind in registry.BUILT_IN})


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that registers a spacing by the name "two"; its module is forgotten after the test."""
    file = tmp_path / "clearcap_plugin_under_test.py"
    file.write_text(PLUGIN.format(name="two"))
    monkeypatch.setitem(sys.modules, file.stem, None)  # remembers that there was none
    del sys.modules[file.stem]
    return file


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, parts in registry.BUILT_IN.items() for name in parts]
)
def test_every_built_in_part_is_where_the_registry_says(kind: str, name: str) -> None:
    assert registry.find(kind, name) is not None


def test_a_registered_part_is_found_named_and_usable_as_a_setting() -> None:
    before = registry.names("solver")
    assert before[:5] == ["renoise", "ddpm", "ddim", "dpm-solver", "plain"]

    @registry.register("solver", "mine")
    def mine(denoise, x, times, noise, randn):
        return x

    assert registry.find("solver", "mine") is mine
    assert registry.names("solver") == [*before, "mine"]
    assert solver("mine") is mine
    assert solver("ddim") is ddim
    assert SamplingConfig(solver="mine").solver == "mine"
    assert registry.register("solver", "mine")(mine) is mine  # again is no fault


def test_names_that_are_taken_and_kinds_that_are_none() -> None:
    registry.register("spacing", "mine")(times_of)
    with pytest.raises(InputError, match="there is a spacing 'mine' already"):
        registry.register("spacing", "mine")(solver)
    with pytest.raises(InputError, match="there is a spacing 'uniform' already"):
        registry.register("spacing", "uniform")(solver)
    with pytest.raises(InputError, match="no kind of part 'sampler'; register one of solver, spacing"):
        registry.register("sampler", "mine")


def test_an_unknown_part_names_those_there_are() -> None:
    registry.register("spacing", "mine")(times_of)
    message = "unknown spacing 'cubic'; choose one of uniform, quadratic, trailing, stride, log-snr, mine"
    for ask in (registry.find, registry.check):
        with pytest.raises(InputError, match=message):
            ask("spacing", "cubic")
    registry.check("spacing", "mine")


def test_checking_a_built_in_part_does_not_load_it() -> None:
    code = """
import sys
from clearcap import registry
registry.check("metric", "SPICE")
registry.check("image encoder", "timm")
print([name for name in sys.modules if name.startswith(("clearcap.metrics", "clearcap.vision", "torch"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_plug_in_file_is_loaded_once(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_plugin(str(plugin))
    assert times_of("two", 1000, 7) == [999, 500, 0]
    first = registry.find("spacing", "two")
    monkeypatch.chdir(plugin.parent)
    registry.load_plugin(plugin.name)  # the same file by another path
    assert registry.find("spacing", "two") is first
    assert sys.modules[plugin.stem].two is first  # what it defines can be pickled and imported


def test_a_plug_in_may_be_a_module(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    registry.load_plugin(plugin.stem)
    assert registry.names("spacing")[-1] == "two"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one two"),
        ("def (", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        (PLUGIN.format(name="uniform"), "there is a spacing 'uniform' already; choose another name"),
    ],
)
def test_a_failing_plug_in_is_one_line_every_time(plugin: Path, code: str, message: str) -> None:
    plugin.write_text(code)
    for _ in range(2):  # a failed plug-in does not pass for loaded
        with pytest.raises(InputError) as caught:
            registry.load_plugin(str(plugin))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    plugin.write_text(PLUGIN.format(name="two"))
    registry.load_plugin(str(plugin))
    registry.check("spacing", "two")


def test_plug_ins_that_are_not_there(tmp_path: Path) -> None:
    for source in (str(tmp_path / "none.py"), "no_such_module_anywhere"):
        with pytest.raises(InputError, match=r"none\.py|no_such_module_anywhere") as caught:
            registry.load_plugin(source)
        assert "\n" not in str(caught.value)


def test_two_files_of_one_name_are_refused(plugin: Path) -> None:
    registry.load_plugin(str(plugin))
    other = plugin.parent / "other" / plugin.name
    other.parent.mkdir()
    other.write_text(PLUGIN.format(name="three"))
    with pytest.raises(InputError, match="is loaded already; rename the file"):
        registry.load_plugin(str(other))


def test_an_installed_plug_in_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """A real distribution on the path, in a process of its own."""
    about = tmp_path / "clearcap_two-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: clearcap-two\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[clearcap.plugins]\ntwo = clearcap_two\n")
    (tmp_path / "clearcap_two.py").write_text(PLUGIN.format(name="two"))
    code = """
from clearcap import registry
from clearcap.config import SamplingConfig
print(SamplingConfig(spacing="two").spacing, registry.find("spacing", "two")(10, 2), registry.names("spacing")[-1])
"""
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout.split("\n")[0] == "two [9, 5, 0] two", done.stderr
