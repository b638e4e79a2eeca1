"""What every study of experiments/ comes down to: a changed default or recipe shows up here, in review."""

import json
import os
from pathlib import Path

import pytest

from scaling.config import to_json
from scaling.study import load_study, plan_study

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "studies"
STUDIES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if "def study()" in path.read_text())


def leaves(data, path=""):
    """Nested data as {dotted path: value}."""
    if isinstance(data, dict | list | tuple) and data:
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        return {key: x for name, part in pairs for key, x in leaves(part, f"{path}.{name}".lstrip(".")).items()}
    return {path: data}


def resolved(name):
    """Every run's config in full; a branch's as far as it differs from its trunk's. No digests of content."""
    study = load_study(name)
    found, trunk = {}, {}
    for entry in plan_study(study):
        config = leaves(to_json(entry.config))
        if entry.config.parent is None:
            trunk, shown = config, config
        else:
            shown = {key: value for key, value in config.items() if key not in trunk or trunk[key] != value}
        found[entry.label] = {"kind": entry.kind, "start": entry.start, "stop": entry.stop, "config": shown}
    parts = {"evaluation": study.evaluation, "law": study.law, "execution": study.execution}
    parts = {name: part and leaves(to_json(part)) for name, part in parts.items()}
    return json.dumps({"study": study.name, **parts, "runs": found}, indent=1) + "\n"


@pytest.mark.parametrize("name", STUDIES)
def test_study_resolves_to_what_was_committed(name, monkeypatch):
    monkeypatch.delenv("WINDTUNNEL_PROSE", raising=False)
    path, text = GOLDEN / f"{name}.json", resolved(name)
    if os.environ.get("WINDTUNNEL_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.exists() and text == path.read_text(), (  # noqa: PT018 (one message for both)
        f"{name} resolves to other configs than {path.relative_to(ROOT)} says. If that is meant, run this test with "
        f"WINDTUNNEL_UPDATE_GOLDEN=1 and commit the difference."
    )


def test_no_golden_file_is_left_of_a_study_that_went():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(STUDIES)
