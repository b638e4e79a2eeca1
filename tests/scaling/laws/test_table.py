import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import fit, table
from scaling.laws.forms import CHINCHILLA


@pytest.fixture
def frame() -> pd.DataFrame:
    n = np.repeat([1e6, 2e6, 4e6], 3)
    d = n * np.tile([10, 20, 40], 3)
    return pd.DataFrame({"Model Size": n, "Tokens": d, "val/loss": 2 + 9 / n**0.2 + 30 / d**0.3})


def test_columns_are_guessed_and_named(frame):
    points = table.from_frame(frame.assign(trunk="a"))
    assert points.conventions["loss"] == "column 'val/loss' (guessed)"
    assert points.columns["n"].tolist() == frame["Model Size"].tolist()
    assert points.columns["flops"] == pytest.approx(6 * frame["Model Size"] * frame["Tokens"])
    assert points.conventions["n"] == "column 'Model Size' (guessed)"
    assert points.conventions["flops"] == "derived as C = 6 N D"
    assert set(points.cluster) == {"a"}
    assert table.from_frame(frame, loss="val/loss").conventions["loss"] == "column 'val/loss'"


def test_tokens_come_from_flops_where_absent(frame):
    given = frame.assign(FLOPs=6 * frame["Model Size"] * frame["Tokens"]).drop(columns="Tokens")
    points = table.from_frame(given, loss="val/loss")
    assert points.columns["d"] == pytest.approx(frame["Tokens"].to_numpy())
    assert "derived" in points.conventions["d"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_of_every_kind_hold_the_same_points(tmp_path, frame, kind):
    path = tmp_path / f"points.{kind}"
    writers = {
        "csv": lambda: frame.to_csv(path, index=False),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True, double_precision=15),
        "parquet": lambda: frame.to_parquet(path),
    }
    writers[kind]()
    points = table.read_table(path, loss="val/loss")
    assert points.loss == pytest.approx(frame["val/loss"].to_numpy(), rel=1e-14)
    assert points.cluster.tolist() == [str(i) for i in range(9)]


def test_where_keeps_rows_and_digest_follows_the_data(tmp_path, frame):
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    everything = table.read_table(path, loss="val/loss")
    assert len(table.read_table(path, loss="val/loss", where="Tokens > 4e7")) == 3
    assert everything.digest == table.read_table(path, loss="val/loss").digest
    changed = frame.copy()
    changed.loc[3, "val/loss"] *= 1 + 1e-9
    assert table.from_frame(changed, loss="val/loss").digest != everything.digest


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf, "n/a"])
def test_values_that_are_not_positive_numbers_name_their_rows(frame, value):
    frame = frame.astype({"val/loss": object})
    frame.loc[[2, 7], "val/loss"] = value
    with pytest.raises(UserError) as error:
        table.from_frame(frame, loss="val/loss")
    assert "'val/loss' has 2 value(s)" in one_line(error)
    assert "rows 2, 7" in one_line(error)


def test_missing_and_ambiguous_columns_list_what_there_is(frame):
    with pytest.raises(UserError) as error:
        table.from_frame(frame.rename(columns={"val/loss": "perplexity"}))
    assert "--loss" in one_line(error)
    assert "perplexity" in one_line(error)
    with pytest.raises(UserError) as error:
        table.from_frame(frame, loss="lost")
    assert "'lost'" in one_line(error)
    with pytest.raises(UserError) as error:
        table.from_frame(frame.drop(columns="Tokens"), loss="val/loss")
    assert "--flops" in one_line(error)
    with pytest.raises(UserError) as error:
        table.from_frame(frame.assign(model_size=1.0), loss="val/loss")
    assert "Model Size, model_size" in one_line(error)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    for name, words in (("none.csv", "no such file"), ("a.txt", ".csv"), ("broken.jsonl", "not a readable")):
        with pytest.raises(UserError) as error:
            table.read_table(tmp_path / name)
        assert words in one_line(error)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (slice(0, 4), "4 points for the 5 parameters"),
        (slice(0, 0), "0 points"),
    ],
)
def test_too_few_points(ladder, rows, words):
    points = ladder()
    with pytest.raises(UserError, match=words):
        fit.fit(CHINCHILLA, points.select(np.arange(len(points))[rows]))


def test_designs_that_separate_nothing(ladder):
    points = ladder()
    n, d = points.columns["n"], points.columns["d"]
    for keep, words in (
        (n == 24e3, "all points have N = 24000"),
        (np.isclose(d / n, 20), "all points have D/N = 20"),
    ):
        with pytest.raises(UserError) as error:
            fit.fit(CHINCHILLA, points.select(keep))
        assert words in one_line(error)
