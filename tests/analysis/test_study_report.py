import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import plots
from analysis.study_report import curves, report_study
from scaling import storage
from scaling.errors import UserError
from scaling.laws.forms import CHINCHILLA
from scaling.records import ResultRow, RunStore

LAWS = {
    "code": {"E": 0.8, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38},
    "prose": {"E": 1.1, "A": 30.0, "B": 400.0, "alpha": 0.33, "beta": 0.41},
}
SIZES = {"a": 12_000, "b": 24_000, "c": 47_000, "d": 95_000, "e": 190_000, "f": 24_000, "g": 12_000, "h": 47_000}
TOKENS_PER_STEP = 1000
LAW = {"n": "N", "flops": "6ND", "holdout": "largest_n", "budgets": [1e14]}


def entry(label: str, trunk: str, n: int, start: int, stop: int) -> dict:
    """A row of plan.json as `scaling.study.Planned.entry` writes it."""
    tokens, decay = stop * TOKENS_PER_STEP, (stop - start) * TOKENS_PER_STEP if start else 0
    return {
        "label": label,
        "kind": "decay" if start else "trunk",
        "run": label.replace("/", "-"),
        "trunk": trunk,
        "trunk_label": trunk,
        "is_point": bool(start),
        "seed": 0,
        "width": 16,
        "N": n,
        "N_total": n + 5000,
        "start": start,
        "stop": stop,
        "save_at": [],
        "D_total": tokens,
        "D_stable": tokens - decay,
        "D_decay": decay,
        # The second convention counts more, and grows otherwise: a report that read it would show other budgets.
        "flops": {"6ND": 6.0 * n * tokens, "6ND_attention": 6.0 * n**1.1 * tokens},
    }


def result(run: str, stop: int, *, state: str = "complete") -> ResultRow:
    return ResultRow(
        run=run,
        state=state,  # type: ignore[arg-type]
        step=stop,
        tokens=stop * TOKENS_PER_STEP,
        unique_tokens=stop * TOKENS_PER_STEP,
        epochs=stop / 4000,
        train_loss=2.0,
        reason="the loss is not finite" if state == "failed" else None,
        execution=[],
        provenance={},
        measured={},
    )


def losses(domain: str, n: int, tokens: int) -> dict[str, float]:
    nats = float(CHINCHILLA.predict(LAWS[domain], {"n": n, "d": tokens}))
    return {"nats_per_token": nats, "nats_per_byte": nats / 2, "bits_per_byte": nats / 2 / np.log(2)}


def plan(store: RunStore, law: dict | None = LAW) -> list[dict]:
    """Writes the plan of a study of eight trunks with four decays each; returns its entries."""
    entries = []
    for trunk, n in SIZES.items():
        steps = [max(20, round(ratio * n / TOKENS_PER_STEP)) for ratio in (20, 40, 60, 80)]
        entries.append(entry(trunk, trunk, n, 0, round(0.9 * steps[-1])))
        entries += [entry(f"{trunk}/{stop}", trunk, n, round(0.9 * stop), stop) for stop in steps]
    planned = {
        "study": "planted",
        "question": "Is the planted law found?",
        "evaluation_digest": "now",
        "domains": list(LAWS),
        "bytes_per_token": 2.0,
        "law": law,
        "flops_spent": 2.0e12,
        "flops_cosine": 5.0e12,
        "entries": entries,
    }
    storage.write_json(store.study_dir("planted") / "plan.json", planned)
    return entries


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A finished study: every point on its domain's law exactly, and an older evaluation beside it."""
    store = RunStore(tmp_path)
    for row in plan(store):
        steps = np.unique(np.linspace(row["start"] + 1, row["stop"], 12).astype(int)).tolist()
        log = [{"step": step, "tokens": step * TOKENS_PER_STEP, "loss": 3.0 + 1.0 / step} for step in steps]
        storage.write_lines(store.log_path(row["run"]), log)
        store.write_result(result(row["run"], row["stop"]))
        if row["is_point"]:
            found = [
                {"step": row["stop"], "digest": digest, "domain": domain}
                | {unit: value + wrong for unit, value in losses(domain, row["N"], row["D_total"]).items()}
                for digest, wrong in (("before", 1.0), ("now", 0.0))
                for domain in LAWS
            ]
            store.add_evaluations(row["run"], found)
    return store


def printed(store: RunStore) -> str:
    text = io.StringIO()
    report_study(store, "planted", Console(file=text, width=240))
    return text.getvalue()


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Laws without their figures, which take most of a report's time."""
    monkeypatch.setattr(plots, "of_report", lambda found: {})


def without_evaluations_of(store: RunStore, domain: str, runs: int = 100) -> None:
    for folder in sorted((store.root / "runs").iterdir())[:runs]:
        storage.keep_lines(folder / "evaluations.jsonl", lambda row: row["domain"] != domain)


def test_a_report_finds_the_planted_law_of_every_domain(store):
    text, folder = printed(store), store.study_dir("planted")
    points = pd.read_csv(folder / "points.csv")
    assert len(points) == 32
    for domain, law in LAWS.items():
        expected = CHINCHILLA.predict(law, {"n": points["N"], "d": points["D_total"]})
        np.testing.assert_allclose(points[f"nats_per_token/{domain}"], expected)
        found = json.loads((folder / domain / "fit.json").read_text())
        assert found["params"] == pytest.approx(law, rel=1e-3)
        held = found["holdout"]["points"]
        assert [row["n"] for row in held] == [190_000.0] * 4
        assert found["holdout"]["mean_error"] < 1e-4
        (row,) = found["allocation"]
        assert row["flops"] == 1e14
        assert row["bytes_per_parameter"] == pytest.approx(2.0 * row["tokens_per_parameter"])
        assert "non-embedding" in found["conventions"]["n"]
        drawn = {path.name for path in (folder / domain).iterdir()}
        assert {"fit.json", "points_and_law.png", "optimal_ratio.pdf", "allocation.png", "residuals.png"} <= drawn
        assert [row["name"] for row in found["sensitivity"]] == [
            "N = N, C = 6 N D",
            "N = N_total, C = 6 N D",
            "N = N_total, C = C_6ND",
        ]
    assert (folder / "loss_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "law on code" in text
    assert "law on prose" in text
    assert "2.50 times as many" in text  # 5e12 FLOPs of retraining over 2e12 spent
    (largest,) = [line for line in text.splitlines() if "e/15200" in line]
    assert "190k" in largest
    assert "15.2M" in largest
    assert "3.80" in largest  # epochs: 15,200 steps of 4,000 each


@pytest.mark.usefixtures("undrawn")
def test_a_study_counts_its_budgets_as_it_declares(store):
    """1e14 FLOPs of the declared convention, which here is 6 N^1.1 D."""
    plan(store, law=LAW | {"flops": "6ND_attention"})
    text = printed(store)
    assert "budget: C as column 'C_6ND_attention' counts it" in text
    data = json.loads((store.study_dir("planted") / "code" / "fit.json").read_text())
    assert data["counted"]["name"] == "C_6ND_attention"
    (row,) = data["allocation"]
    assert 6 * row["n"] ** 1.1 * row["d"] == pytest.approx(1e14, rel=0.05)
    assert data["sensitivity"][0]["name"] == "N = N, C = C_6ND_attention"
    assert data["error_against_compute"]["counting"] == "C_6ND_attention, a trunk once and its branches on top"


def test_curves_end_where_the_plan_does_and_begin_where_a_branch_does(store):
    entries = json.loads((store.study_dir("planted") / "plan.json").read_text())["entries"]
    trunk, branch = next(e for e in entries if e["label"] == "e"), next(e for e in entries if e["label"] == "e/15200")
    rows = [
        {"step": s, "tokens": s * TOKENS_PER_STEP, "loss": 3.0 if s % 2 else 2.0} for s in range(1, trunk["stop"] + 1)
    ]
    storage.write_lines(store.log_path("e"), rows)
    low = [
        {"step": s, "tokens": s * TOKENS_PER_STEP, "loss": 1.0} for s in range(branch["start"] + 1, branch["stop"] + 1)
    ]
    storage.write_lines(store.log_path("e-15200"), low)
    further = {"step": trunk["stop"] + 50, "tokens": (trunk["stop"] + 50) * TOKENS_PER_STEP, "loss": 1.0}
    storage.append_lines(store.log_path("e"), [further])  # another study's plan asks for a longer trunk
    drawn = curves(store, {"entries": [trunk, branch]})
    assert list(drawn.columns) == ["run", "kind", "N", "tokens", "loss"]
    own, decay = (drawn[drawn["run"] == label] for label in ("e", "e/15200"))
    assert own["tokens"].max() == trunk["stop"] * TOKENS_PER_STEP
    assert len(own) == trunk["stop"]
    assert own["loss"].to_numpy() == pytest.approx(2.5, abs=0.01)  # batch noise is averaged out
    assert set(decay["kind"]) == {"decay"}
    assert decay["tokens"].min() == (branch["start"] + 1) * TOKENS_PER_STEP
    # Half of the first mean is the trunk's end; the last holds the branch alone.
    assert decay["loss"].iloc[[0, -1]].tolist() == pytest.approx([(2.5 + 1.0) / 2, 1.0], abs=0.02)


@pytest.mark.usefixtures("undrawn")
def test_a_domain_without_evaluations_gets_a_sentence_and_the_rest_is_shown(store):
    without_evaluations_of(store, "prose")
    text, folder = printed(store), store.study_dir("planted")
    assert "no law on prose: no point is evaluated on it" in text
    assert not (folder / "prose").exists()
    assert json.loads((folder / "code" / "fit.json").read_text())["params"] == pytest.approx(LAWS["code"], rel=1e-3)
    assert "2.50 times as many" in text


@pytest.mark.usefixtures("undrawn")
def test_points_without_an_evaluation_are_left_out_of_that_law_alone(store):
    without_evaluations_of(store, "prose", runs=3)  # the trunk a, which has none, and two of its branches
    assert "2 points are not evaluated on prose: left out" in printed(store)
    found = {domain: json.loads((store.study_dir("planted") / domain / "fit.json").read_text()) for domain in LAWS}
    assert {domain: law["points"] for domain, law in found.items()} == {"code": 32, "prose": 30}


def test_a_study_that_asks_for_no_law_gets_points_and_saving(store):
    plan(store, law=None)
    text = printed(store)
    assert "law on" not in text
    assert "e/15200" in text
    assert "2.50 times as many" in text
    assert {path.name for path in store.study_dir("planted").iterdir()} == {
        "plan.json", "points.csv", "loss_curves.png", "loss_curves.pdf"
    }  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_unfinished_points_are_counted(store):
    (store.run_dir("e-15200") / "result.json").unlink()
    text = printed(store)
    assert "1 of 32 points are not finished: left out below" in text
    assert "e/15200" not in text


def test_a_study_without_a_single_point_says_whether_its_runs_failed(tmp_path):
    store = RunStore(tmp_path)
    entries = plan(store)
    with pytest.raises(UserError, match="no finished point yet: `windtunnel run` trains it"):
        printed(store)
    store.write_result(result("a", 10, state="failed"))
    with pytest.raises(UserError, match="5 of 40 runs failed: see `windtunnel status`"):  # its branches fell with it
        printed(store)
    for row in entries:
        if not row["is_point"]:
            store.write_result(result(row["run"], 10, state="failed"))
    with pytest.raises(UserError, match="every run failed: see `windtunnel status`"):
        printed(store)
