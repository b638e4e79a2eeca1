"""Notebooks run from top to bottom in the interpreter that runs the tests, with their data and without."""

import asyncio
import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "analysis" / "notebooks" / "chinchilla.ipynb"
RECORDED = ROOT / "analysis" / "results" / "chinchilla" / "chinchilla.json"
TABLE = ROOT.parent / "shared" / "data" / "law_tables" / "chinchilla_svg_extracted.csv"


@pytest.fixture
def place(tmp_path) -> Path:
    """A copy of the notebook and its recorded outcome, so that running it changes nothing here."""
    copy = tmp_path / "analysis" / "notebooks" / NOTEBOOK.name
    copy.parent.mkdir(parents=True)
    shutil.copy(NOTEBOOK, copy)
    recorded = tmp_path / "analysis" / "results" / "chinchilla" / RECORDED.name
    recorded.parent.mkdir(parents=True)
    shutil.copy(RECORDED, recorded)
    return tmp_path


def execute(place: Path, monkeypatch, table: Path) -> nbformat.NotebookNode:
    monkeypatch.setenv("WINDTUNNEL_CHINCHILLA_TABLE", str(table))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(place / "ipython"))
    path = place / "analysis" / "notebooks" / NOTEBOOK.name
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    # A loop of our own: nbclient would otherwise leave one open, and an unclosed loop is a warning.
    with asyncio.Runner() as runner:
        runner.run(client.async_execute())
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook: nbformat.NotebookNode) -> str:
    found = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs(notebook)]
    return "\n".join(found)


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    return [base64.b64decode(o["data"]["image/png"]) for o in outputs(notebook) if "image/png" in o.get("data", {})]


def flat(data: Any, at: tuple = ()) -> dict[tuple, float]:
    """Every number of nested data by its path."""
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return {path: number for key, value in items for path, number in flat(value, (*at, key)).items()}
    return {at: data} if isinstance(data, int | float) else {}


def test_the_committed_notebook_shows_figures_and_nothing_of_this_machine():
    """What a reader sees without running anything: executed in order, no error, small, no path of anyone's home."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert len(pictures(notebook)) >= 8
    assert all(picture.startswith(b"\x89PNG") for picture in pictures(notebook))
    assert NOTEBOOK.stat().st_size < 1.5e6
    shown = json.dumps([{k: v for k, v in o.get("data", o).items() if k != "image/png"} for o in outputs(notebook)])
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/|stderr", shown)


def test_the_committed_outputs_are_the_recorded_outcome():
    recorded = json.loads(RECORDED.read_text())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert f"{recorded['fit']['params']['B']:,.7g}" in text(notebook)
    assert f"Minimum {recorded['fit']['objective']:.6g}" in text(notebook)
    for low, high in recorded["bootstrap"]["90% intervals"].values():
        assert f"{low:,.4g} to {high:,.4g}" in text(notebook)


def test_without_the_table_it_shows_the_recorded_outcome(place, monkeypatch):
    notebook = execute(place, monkeypatch, place / "absent.csv")
    shown = text(notebook)
    assert "The table is not here: recorded outcome." in shown
    for number in ("477.8259", "2,143.417", "1.817218", "0.3473105", "0.3671724", "0.001018274"):
        assert number in shown
    assert pictures(notebook) == []
    recorded = place / "analysis" / "results" / "chinchilla" / RECORDED.name
    assert recorded.read_bytes() == RECORDED.read_bytes()


@pytest.mark.slow
def test_with_the_table_it_finds_what_is_recorded(place, monkeypatch):
    if not TABLE.is_file():
        pytest.skip("the table is not here (it is not ours to ship)")
    notebook = execute(place, monkeypatch, TABLE)
    assert "Computed here, from the table." in text(notebook)
    assert len(pictures(notebook)) == len(pictures(nbformat.read(NOTEBOOK, as_version=4)))
    here = json.loads((place / "analysis" / "results" / "chinchilla" / RECORDED.name).read_text())
    recorded = json.loads(RECORDED.read_text())
    assert here["fit"]["objective"] == pytest.approx(1.0182740178e-3, rel=1e-7)
    assert here["fit"]["params"] == pytest.approx(recorded["fit"]["params"], rel=1e-5)
    numbers, expected = flat(here), flat(recorded)
    assert numbers.keys() == expected.keys()
    assert {k: v for k, v in numbers.items() if k[0] != "fit"} == pytest.approx(
        {k: v for k, v in expected.items() if k[0] != "fit"}, rel=0.05, abs=0.01
    )
