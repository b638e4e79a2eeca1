"""What the project's pages promise exists: their links, and no blanks left to fill."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "experiments/LOG.md")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_is_left_blank(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+?)\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    assert re.findall(r"\b[A-Z]{3,}_(?:TIME|OUTPUT|COST|RESULT|ENTRY|HONESTY)\b", text) == []


def readme_study(path, blocks):
    """The study of the first so many code blocks of the README, in one file: a later one goes on from those before."""
    from scaling.study import load_study

    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    path.write_text("\n".join(found[:blocks]))
    return load_study(str(path))


def test_the_study_of_the_readme_is_one(tmp_path):
    from scaling.study import plan_study

    study = readme_study(tmp_path / "notes.py", 1)
    assert study.name == "notes"
    assert len(plan_study(study)) == 5 * (1 + 3)


def test_the_study_that_the_readme_tunes_is_one_of_whole_runs(tmp_path):
    from scaling.study import plan_study

    study = readme_study(tmp_path / "tune_notes.py", 2)
    assert (study.name, study.law) == ("notes_tuning", None)
    assert [entry.kind for entry in plan_study(study)] == ["whole"]
