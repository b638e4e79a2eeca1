import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.laws import fit, guesses, reading, table
from scaling.laws.forms import CHINCHILLA, FORMS

OLMO = Path(__file__).parents[4] / "shared" / "data" / "law_tables" / "olmo_ladder_final_losses.csv"
OLMO_LOSS = "eval/c4_en-validation/CrossEntropyLoss"


@pytest.fixture
def frame() -> pd.DataFrame:
    n = np.repeat([1e6, 2e6, 4e6], 3)
    d = n * np.tile([10, 20, 40], 3)
    return pd.DataFrame({"Model Size": n, "Tokens": d, "val/loss": 2 + 9 / n**0.2 + 30 / d**0.3})


def error_of(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    return text


# Columns


def test_columns_are_guessed_and_named(frame):
    points = table.from_frame(frame.assign(trunk="a"))
    assert points.conventions["loss"] == "column 'val/loss' (guessed)"
    assert points.columns["n"].tolist() == frame["Model Size"].tolist()
    assert points.columns["flops"] == pytest.approx(6 * frame["Model Size"] * frame["Tokens"])
    assert points.conventions["n"] == "column 'Model Size' (guessed)"
    assert points.conventions["flops"] == "derived as C = 6 N D"
    assert set(points.cluster) == {"a"}
    assert table.from_frame(frame, columns={"loss": "val/loss", "d": ""}).conventions["loss"] == "column 'val/loss'"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "Name,parameter_count,throughput/total_tokens,eval/loss,train/loss",
            "parameter_count,throughput/total_tokens,eval/loss,Name",
        ),
        (
            "name,num_params,num_non_embedding_params,throughput/total tokens,eval/lm/c4/CE loss,train/CE loss",
            "num_non_embedding_params,throughput/total tokens,eval/lm/c4/CE loss,name",
        ),
        (
            "num_parameters,consumed_train_tokens,lm loss,lm loss validation",
            "num_parameters,consumed_train_tokens,lm loss validation,",
        ),
        (
            "config.nParams,summary.trainTokens,summary.eval.loss,run_name",
            "config.nParams,summary.trainTokens,summary.eval.loss,run_name",
        ),
        ("N,D,h,lr,smooth loss", "N,D,smooth loss,"),
        ("N,D,c4 loss,aux loss,train/loss", "N,D,c4 loss,"),
        (
            "run,trunk,N,N_total,D_total,D_unique,train_loss,nats_per_token/code,bits_per_byte/code",
            "N,D_total,nats_per_token/code,trunk",
        ),
        (
            "run_name,params_active_precise,params,tokens,bs_tokens,final_loss,step",
            "params_active_precise,tokens,final_loss,run_name",
        ),
    ],
)
def test_names_that_trainers_write(names, expected):
    found = [guesses.guess(names.split(","), role) for role in ("n", "d", "loss", "cluster")]
    assert ",".join(guess.column if guess else "" for guess in found) == expected


def test_the_columns_not_taken_are_named(frame):
    points = table.from_frame(frame.assign(total_params=frame["Model Size"] * 1.5))
    assert points.conventions["n"] == "column 'Model Size' (guessed, not 'total_params')"


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"name": "shared", "run_id": "own"}, "name"),
        ({"name": "own", "run_id": "shared"}, "run_id"),
        ({"name": "own", "run_id": "own"}, "name"),  # whichever: every point is its own
        ({"run": "shared", "experiment_name": "one"}, "run"),
        ({"run": "shared", "run_id": "same"}, "run"),  # the same groups under other names
    ],
)
def test_of_several_names_of_a_run_the_one_that_groups_rows_is_the_cluster(frame, columns, chosen):
    values = {
        "own": [f"r{i}" for i in range(9)],
        "shared": list("aaabbbccc"),
        "same": list("xxxyyyzzz"),
        "one": ["study"] * 9,
    }
    points = table.from_frame(frame.assign(**{name: values[kind] for name, kind in columns.items()}))
    assert points.cluster.tolist() == values[columns[chosen]]
    (other,) = set(columns) - {chosen}
    assert points.conventions["cluster"] == f"column {chosen!r} (guessed, not {other!r})"


def test_names_that_group_rows_differently_are_asked_about(frame):
    both = frame.assign(run=list("aaabbbccc"), experiment_name=list("abcabcabc"))
    text = error_of(table.from_frame, both)
    assert "columns 'run', 'experiment_name' could all be the trunk (or seed) of a point: choose with --cluster" in text
    assert table.from_frame(both, columns={"cluster": "run"}).cluster.tolist() == list("aaabbbccc")


def test_a_count_that_is_not_read_for_its_ambiguity_says_so(frame):
    flops = 6 * frame["Model Size"] * frame["Tokens"]
    points = table.from_frame(frame.assign(flops=flops, total_flops=2 * flops))
    assert points.columns["flops"] == pytest.approx(flops.to_numpy())
    assert points.conventions["flops"] == (
        "not read: columns 'flops', 'total_flops' could all be the training FLOPs C: choose with --flops; "
        "derived as C = 6 N D"
    )


def test_flops_that_are_asked_for_are_what_budgets_count(frame):
    six_nd = 6 * frame["Model Size"] * frame["Tokens"]
    counted = frame.assign(FLOPs=six_nd * (1 + 2 * (frame["Model Size"] / 1e6) ** (-1 / 3)))
    guessed, asked = (table.from_frame(counted, columns=c) for c in ({}, {"flops": "FLOPs"}))
    assert guessed.budgets == pytest.approx(six_nd.to_numpy())
    assert guessed.cost.name == "6 N D"
    assert asked.budgets == pytest.approx(counted["FLOPs"].to_numpy())
    assert asked.cost.name == "FLOPs"
    per_token = asked.cost.training({"n": asked.columns["n"]})
    assert per_token * asked.columns["d"] == pytest.approx(asked.budgets, rel=0.01)
    assert asked.select(asked.loss > asked.loss.min()).cost.name == "FLOPs"
    # A column that is 6 N D to rounding is 6 N D, and tokens derived from FLOPs mean it.
    plain = frame.assign(FLOPs=1.001 * six_nd)
    assert table.from_frame(plain, columns={"flops": "FLOPs"}).counted is None
    assert table.from_frame(counted.drop(columns="Tokens"), columns={"flops": "FLOPs"}).counted is None


def test_stable_tokens_are_read_where_they_can_be_meant(frame):
    stable = np.where(np.arange(9) % 3, 0.9 * frame["Tokens"], 0.0)  # 0: a run of its own
    points = table.from_frame(frame.assign(D_stable=stable))
    assert points.columns["d_stable"] == pytest.approx(stable)
    assert points.centre.keys() == {"n", "d", "flops", "loss"}
    more = table.from_frame(frame.assign(D_stable=2 * frame["Tokens"]))
    assert "d_stable" not in more.columns
    assert "not used: it is no part of the tokens" in more.conventions["d_stable"]


def test_steps_and_rates_are_no_guess():
    assert guesses.guess(["_step", "batch_size", "tokens_per_second", "tflops", "lr"], "d") is None
    assert guesses.guess(["tflops", "tokens_per_second", "mfu"], "flops") is None


def test_tokens_or_parameters_come_from_flops_where_absent(frame):
    given = frame.assign(FLOPs=6 * frame["Model Size"] * frame["Tokens"])
    points = table.from_frame(given.drop(columns="Tokens"))
    assert points.columns["d"] == pytest.approx(frame["Tokens"].to_numpy())
    assert "derived" in points.conventions["d"]
    points = table.from_frame(given.drop(columns="Model Size"))
    assert points.columns["n"] == pytest.approx(frame["Model Size"].to_numpy())


def test_a_form_of_flops_needs_no_sizes(frame):
    given = pd.DataFrame({"C": 6 * frame["Model Size"] * frame["Tokens"], "loss": frame["val/loss"]})
    points = table.from_frame(given, form=FORMS["compute"])
    assert set(points.columns) == {"flops"}
    assert points.budgets.tolist() == given["C"].tolist()
    assert "the parameter count N" in error_of(table.from_frame, given)
    fit.fit(FORMS["compute"], points)
    days = given.assign(C=given["C"] / 8.64e19)
    assert "if flops is in PF-days, pass --unit flops=8.64e+19" in error_of(
        table.from_frame, days, form=FORMS["compute"]
    )


def test_columns_of_further_roles(frame):
    deep = frame.drop(columns="Model Size").assign(num_hidden_layers=[2, 4, 8] * 3, hidden_size=[64.0, 128, 256] * 3)
    points = table.from_frame(deep, form=FORMS["width_depth"])
    assert points.columns["depth"].tolist() == [2, 4, 8] * 3
    assert points.columns["width"].tolist() == [64, 128, 256] * 3
    assert "n" not in points.columns
    assert "what the runs cost cannot be told from d, width, depth" in error_of(lambda: points.budgets)
    assert "'depth' is no column of a table for 'chinchilla': one of n, d, flops, loss, cluster" in error_of(
        table.from_frame, frame, columns={"depth": "x"}
    )
    assert "--column depth=NAME" in error_of(table.from_frame, frame, form=FORMS["width_depth"])


def test_a_law_of_accuracies_reads_accuracies():
    given = pd.DataFrame({"task_loss": [2.0, 1.5, 1.0], "eval_loss": [3.0, 2.5, 2.0], "arc_acc_norm": [0.3, 0.4, 0.6]})
    points = table.from_frame(given, form=FORMS["accuracy"])
    assert points.loss.tolist() == [0.3, 0.4, 0.6]
    assert points.columns["task_loss"].tolist() == [2.0, 1.5, 1.0]
    assert points.conventions["loss"] == "column 'arc_acc_norm' (guessed)"
    text = error_of(table.from_frame, given.drop(columns="arc_acc_norm"), form=FORMS["accuracy"])
    assert "no column for the accuracy on the task: name one with --loss" in text


def test_unique_tokens_are_read_or_asked_for(frame):
    points = table.from_frame(frame.assign(unique_tokens=3e7), form=FORMS["data_constrained"])
    assert set(points.columns) == {"n", "d", "flops", "d_unique"}
    assert "no column for the unique tokens" in error_of(table.from_frame, frame, form=FORMS["data_constrained"])


def test_missing_and_ambiguous_columns_list_what_there_is(frame):
    text = error_of(table.from_frame, frame.rename(columns={"val/loss": "perplexity"}))
    assert "--loss" in text
    assert "'perplexity'" in text
    assert "'lost'" in error_of(table.from_frame, frame, columns={"loss": "lost"})
    assert "--flops" in error_of(table.from_frame, frame.drop(columns="Tokens"))
    text = error_of(table.from_frame, frame.assign(model_size=1.0))
    assert "'Model Size', 'model_size' could all be the parameter count N: choose with --n" in text


def test_a_spare_guess_with_bad_values_is_left_out_and_said(frame):
    points = table.from_frame(frame.assign(flops=[np.nan, *range(8)]))
    assert points.columns["flops"] == pytest.approx(6 * frame["Model Size"] * frame["Tokens"])
    assert points.conventions["flops"].startswith("not read: column 'flops' has 2 value(s)")
    assert "'flops' has 2" in error_of(
        table.from_frame, frame.assign(flops=[np.nan, *range(8)]), columns={"flops": "flops"}
    )


# Files


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_files_of_every_kind_hold_the_same_points(tmp_path, frame, kind):
    path = tmp_path / f"points.{kind}"
    writers = {
        "csv": lambda: frame.to_csv(path, index=False, encoding="utf-8-sig"),  # Excel writes a byte-order mark
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True, double_precision=15),
        "json": lambda: path.write_text(json.dumps(frame.to_dict("records"))),
        "parquet": lambda: frame.to_parquet(path),
    }
    writers[kind]()
    points = table.read_table(path)
    assert points.loss == pytest.approx(frame["val/loss"].to_numpy(), rel=1e-14)
    assert points.columns["n"].tolist() == frame["Model Size"].tolist()
    assert points.cluster.tolist() == [str(i) for i in range(9)]


def test_where_keeps_rows_and_says_how_many(tmp_path, frame):
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    everything = table.read_table(path)
    some = table.read_table(path, where="`val/loss` > 2.6 and Tokens > 1e7")
    assert some.conventions["rows"] == "5 of 9 kept, where `val/loss` > 2.6 and Tokens > 1e7"
    assert len(some) == ((frame["val/loss"] > 2.6) & (frame["Tokens"] > 1e7)).sum() == 5
    assert everything.digest == table.read_table(path).digest
    changed = frame.copy()
    changed.loc[3, "val/loss"] *= 1 + 1e-9
    assert table.from_frame(changed).digest != everything.digest
    for where, words in (("Tokens < 0", "keeps none of 9"), ("Tokens + 1", "no condition"), ("tokns > 1", "'tokns'")):
        assert words in error_of(table.read_table, path, where=where)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "no such file"),
        ("runs.xlsx", "", ".csv, .tsv, .jsonl, .json, .parquet"),
        ("broken.jsonl", '{"n": 1}\n{not json\n', "line 2"),
        ("three.json", "3", "a list of records"),
        ("no.csv", "", "not a readable .csv table"),
        ("names.csv", "n,d,loss\n", "no rows"),
        ("loose.csv", "n,d,loss\n70,000,000,3.1\n80,000,000,3.0\n", 'quote values such as "1,000"'),
        ("comma.csv", "n;d;loss\n7e7;2e9;3,1\n", "'3,1', with a decimal comma"),
        ("latin.csv", b"n,d,loss,\xf6\n", "save it as UTF-8"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in error_of(table.read_table, path)


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("70M", 70e6), ("1.4B", 1.4e9), ("1.4b", 1.4e9), ("3e9", 3e9), ("2T", 2e12), (" 410 k ", 410e3), ("2G", 2e9),
        ("1,000,000", 1e6), ("1_000", 1e3), (".5B", 5e8), ("1e3", 1e3), ("7", 7.0),
    ],
)  # fmt: skip
def test_counts_as_people_write_them(text, value):
    assert reading.number(text, count=True) == value


@pytest.mark.parametrize(
    "text", ["190M-0.5xC", "1,0", "10,00", "1.000.000", "70MB", "~70M", "", "1e9e9", "seven", "5%"]
)
def test_what_is_no_count_is_no_number(text):
    assert np.isnan(reading.number(text, count=True))


def test_losses_take_no_commas_and_suffixes():
    assert np.isnan(reading.number("3,141", count=False))
    assert np.isnan(reading.number("3k", count=False))
    assert reading.number("3.141", count=False) == 3.141


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_every_printed_number_reads_back(value):
    assert reading.number(repr(value), count=True) == value
    assert reading.number(f"{value:.17g}", count=False) == value


def test_written_suffixes_are_read_and_said(frame):
    written = frame.assign(**{"Model Size": ["1M"] * 3 + ["2,000,000"] * 3 + ["0.004b"] * 3})
    points = table.from_frame(written)
    assert points.digest == table.from_frame(frame).digest
    assert points.conventions["n"] == "column 'Model Size' (guessed); written such as '1M', which is 1e+06"


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf, "n/a"])
def test_values_that_are_not_positive_numbers_name_their_lines_and_a_way_out_that_works(tmp_path, frame, value):
    frame = frame.astype({"val/loss": object})
    frame.loc[[2, 7], "val/loss"] = value
    assert "index 2, 7;" in error_of(table.from_frame, frame)
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    text = error_of(table.read_table, path)
    assert "'val/loss' has 2 value(s)" in text
    assert "(lines 4, 9;" in text  # the first line has the names
    way_out = text.partition('--where "')[2].rstrip('"')
    assert len(table.read_table(path, where=way_out)) == 7


def test_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("n,d,loss\n7e7,2e9,3.1\n\n7e7,4e9,\n")
    assert "(line 4;" in error_of(table.read_table, path)
    path.write_text('n,d,loss,note\n7e7,2e9,3.1,"two\nlines"\n7e7,4e9,,\n')
    assert "(row 2;" in error_of(table.read_table, path)
    path = tmp_path / "points.jsonl"
    path.write_text('{"n": 7e7, "d": 2e9, "loss": 3}\n\n{"n": 7e7, "d": 2e9, "loss": null}\n')
    assert "(line 3;" in error_of(table.read_table, path)


def test_a_part_of_a_name_can_be_a_column(frame):
    named = frame.assign(run=[f"{n / 1e6:g}M-{i % 3}xC" for i, n in enumerate(frame["Model Size"])])
    columns = {"n": "run~^([0-9.]+[MB])", "cluster": "run~^[^-]+"}
    points = table.from_frame(named.drop(columns="Model Size"), columns=columns)
    assert points.columns["n"].tolist() == frame["Model Size"].tolist()
    assert sorted(set(points.cluster)) == ["1M", "2M", "4M"]
    named.loc[4, "run"] = "baseline"
    assert "'no match in baseline'" in error_of(table.from_frame, named, columns=columns)
    assert "not a regular expression" in error_of(table.from_frame, named, columns={"n": "run~("})
    assert "--n 'run~([0-9.]+[MBmb])'" in error_of(table.from_frame, named.drop(columns="Model Size"))


def test_olmos_ladder():
    if not OLMO.is_file():
        pytest.skip("the table is not here")
    text = error_of(table.read_table, OLMO)
    assert OLMO_LOSS in text
    assert "choose with --loss" in text
    assert "such as '190M-0.5xC' with --n 'run~([0-9.]+[MBmb])'" in text
    assert "bs_tokens" in text
    columns = {"loss": OLMO_LOSS, "n": "run~^([0-9.]+[MB])"}
    assert "lines 32, 33, 34" in error_of(table.read_table, OLMO, columns=columns)
    text = error_of(table.read_table, OLMO, columns={"loss": OLMO_LOSS, "n": "bs_tokens"})
    assert '--where "tokens.notna()"' in text
    points = table.read_table(OLMO, columns=columns, where='run.str.contains("xC")')
    assert points.conventions["rows"].startswith("30 of 41 kept")
    assert sorted(set(points.columns["n"])) == [190e6, 370e6, 760e6, 1e9, 3e9]


# Units


def with_units(frame: pd.DataFrame, n: float = 1.0, d: float = 1.0, c: float | None = None) -> pd.DataFrame:
    sizes, tokens = 100 * frame["Model Size"], 100 * frame["Tokens"]
    written = frame.assign(**{"Model Size": sizes / n, "Tokens": tokens / d})
    return written if c is None else written.assign(FLOPs=6 * sizes * tokens / c)


@pytest.mark.parametrize(
    ("units", "asked"),
    [
        ({"n": 1e9}, "n=1e+09"),
        ({"n": 1e6}, "n=1e+06"),
        ({"d": 1e9}, "d=1e+09"),
        ({"n": 1e9, "d": 1e9}, "n=1e+09 --unit d=1e+09"),
        ({"c": 8.64e19}, "flops=8.64e+19"),
        ({"c": 1e18}, "flops=1e+18"),
        ({"n": 1e9, "c": 1.0}, "n=1e+09"),
        ({"n": 1e3, "c": 1.0}, "n=1000"),
        ({"d": 1e9, "c": 1e18}, "d=1e+09 --unit flops=1e+18"),
    ],
)
def test_columns_in_other_units_are_asked_about_and_both_answers_work(frame, units, asked):
    written = with_units(frame, **units)
    text = error_of(table.from_frame, written)
    assert f"pass --unit {asked};" in text
    option = dict(word.split("=") for word in asked.split(" --unit "))
    points = table.from_frame(written, units={name: float(factor) for name, factor in option.items()})
    assert points.columns["n"] == pytest.approx(100 * frame["Model Size"].to_numpy())
    assert points.columns["d"] == pytest.approx(100 * frame["Tokens"].to_numpy())
    known = ["n", "d", *(["flops"] if "c" in units else [])]
    as_written = table.from_frame(written, units=dict.fromkeys(known, 1))
    assert as_written.columns["n"].tolist() == written["Model Size"].tolist()


def test_a_unit_in_the_name_is_taken_and_said(frame):
    named = with_units(frame, n=1e9, d=1e9).rename(columns={"Model Size": "Params (B)", "Tokens": "tokens_b"})
    points = table.from_frame(named)
    assert points.columns["n"] == pytest.approx(100 * frame["Model Size"].to_numpy())
    assert points.conventions["d"] == "column 'tokens_b' (guessed); in units of 1e+09, by its name"
    days = with_units(frame, c=8.64e19).rename(columns={"FLOPs": "PF-days"}).drop(columns="Tokens")
    assert table.from_frame(days).columns["d"] == pytest.approx(100 * frame["Tokens"].to_numpy())


def test_rows_in_other_units_are_asked_about(tmp_path, frame):
    path = tmp_path / "points.csv"
    mixed = with_units(frame)
    mixed.loc[[2, 7], "Model Size"] /= 1e9
    mixed.to_csv(path, index=False)
    text = error_of(table.read_table, path)
    assert text.startswith("lines 4, 9: n = 0.1 to 0.4, in the others 1e+08 to 4e+08: mixed units?")
    assert len(table.read_table(path, units={"n": 1, "d": 1})) == 9
    thousands = with_units(frame, c=1.0)
    thousands.loc[5, "Tokens"] /= 1e3  # no gap in the column: FLOPs give it away
    assert "C is 1e+03 times 6 N D" in error_of(table.from_frame, thousands)


def test_counted_flops_are_remarked_on_not_asked_about(frame):
    counted = with_units(frame, c=1 / 30)
    assert table.from_frame(counted).conventions["flops"] == "column 'FLOPs' (guessed); 30 times 6 N D"


def test_real_tables_and_small_ladders_are_not_asked_about(epoch, real_table, ladder):
    assert len(epoch) == 240
    assert len(real_table("gemstones_after_cooldown.jsonl")) == 199
    small = ladder()
    columns = {"n": small.columns["n"], "d": small.columns["d"], "loss": small.loss}
    assert len(table.from_frame(pd.DataFrame(columns | {"trunk": small.cluster}))) == len(small)


# Rows and losses that are not what they seem


def test_repeated_rows_are_refused_dropped_or_kept(tmp_path, frame):
    path = tmp_path / "points.csv"
    pd.concat([frame, frame.iloc[[3, 5]]]).to_csv(path, index=False)
    assert error_of(table.read_table, path).startswith("lines 11, 12: the same as an earlier row in n, d, loss")
    dropped = table.read_table(path, duplicates="drop")
    assert dropped.digest == table.from_frame(frame).digest
    assert dropped.conventions["duplicates"] == "2 repeated rows dropped"
    assert len(table.read_table(path, duplicates="keep")) == 11
    seeds = pd.concat([frame.assign(run="a"), frame.assign(run="b")], ignore_index=True)
    assert len(table.from_frame(seeds)) == 18  # runs of their own


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda loss: np.exp(2 * loss), "looks like a perplexity"),
        (lambda loss: 1 - loss / 5, "looks like an accuracy"),
        (lambda loss: 6 - loss, "rises with D"),
    ],
)
def test_losses_that_are_none_are_remarked_on(frame, change, words):
    assert words in table.from_frame(frame.assign(**{"val/loss": change(frame["val/loss"])})).conventions["loss"]


def test_bits_and_training_losses_are_named_as_such(frame):
    assert "in bits" in table.from_frame(frame.rename(columns={"val/loss": "bits_per_byte"})).conventions["loss"]
    assert "a training loss" in table.from_frame(frame.rename(columns={"val/loss": "train/loss"})).conventions["loss"]


def test_rows_without_a_cluster_are_named(frame):
    assert "index 1: no value in the cluster column 'run'" in error_of(
        table.from_frame, frame.assign(run=["a", None, *"abcdefg"])
    )


# Designs


@pytest.mark.parametrize(("rows", "words"), [(slice(0, 4), "4 points for the 5 parameters"), (slice(0, 0), "0 points")])
def test_too_few_points(ladder, rows, words):
    points = ladder()
    keep = np.arange(len(points))[rows]
    assert words in error_of(fit.fit, CHINCHILLA, points.select(keep))
    if len(keep):
        table.check_identifiable(points.select(keep), CHINCHILLA.hold({"E": 1.2}))


def test_designs_that_separate_nothing(ladder):
    points = ladder()
    n, d = points.columns["n"], points.columns["d"]
    for keep, words in (
        (n == 24e3, "all points have N = 24000"),
        (np.isclose(d / n, 20), "all points have D/N = 20"),
    ):
        assert words in error_of(fit.fit, CHINCHILLA, points.select(keep))
    one_d = table.Table({"n": n, "d": np.full_like(n, 1e6)}, points.loss, points.cluster, {})
    assert "all points have D = 1e+06" in error_of(table.check_identifiable, one_d, CHINCHILLA)


def test_bits_that_never_vary_have_to_be_known(ladder):
    points, form = ladder(), FORMS["precision"]
    bits = {name: np.full(len(points), 16.0) for name in ("p_w", "p_a", "p_kv")} | {"p_w": np.tile([4.0, 8, 16, 16], 6)}
    points = table.Table(dict(points.columns) | bits, points.loss, points.cluster, {})
    assert "all points have P_A = 16" in error_of(table.check_identifiable, points, form)
    assert "all points have P_KV = 16" in error_of(table.check_identifiable, points, form.hold({"gamma_a": 2.0}))
    table.check_identifiable(points, form.hold({"gamma_a": 2.0, "gamma_kv": 2.0}))


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "runs.csv").mkdir()
    assert "a folder, not a table" in error_of(table.read_table, tmp_path / "runs.csv")


def test_a_column_that_is_bad_throughout_is_not_left_out_but_explained(frame):
    frame["val/loss"] = "94%"
    text = error_of(table.from_frame, frame)
    assert "a percentage: write 0.94 or 94 for 94%" in text
    assert "--where" not in text


def test_a_few_rows_in_millions_are_found_by_sizes_that_no_model_has(frame):
    frame.loc[frame["Model Size"] < 2e6, "Model Size"] *= 1e-4  # 1e2 beside 2e6 and more: a gap below every design's
    text = error_of(table.from_frame, frame)
    assert "mixed units?" in text
    table.from_frame(frame, units={"n": 1})
