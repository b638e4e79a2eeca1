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


def test_the_study_of_the_readme_is_one(tmp_path):
    from scaling.study import load_study, plan_study

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    path = tmp_path / "notes.py"
    path.write_text(code)
    study = load_study(str(path))
    assert study.name == "notes"
    assert len(plan_study(study)) == 5 * (1 + 3)
