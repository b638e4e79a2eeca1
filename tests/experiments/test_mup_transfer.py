import pandas as pd
import pytest

from experiments import coordinate_check, mup_transfer
from scaling.errors import UserError
from scaling.storage import read_json
from scaling.study import plan_study
from scaling.tuning.parametrization import standard


def test_the_sweep_varies_rate_width_parametrisation_and_seed_and_nothing_else():
    planned = plan_study(mup_transfer.study())
    for entry in planned:
        config, rows = entry.config, entry.entry()
        width = config.model.d_model
        assert entry.kind == "whole"
        assert rows["D_total"] / rows["N"] == pytest.approx(10, rel=0.01)
        assert rows["D_decay"] / rows["D_total"] == pytest.approx(0.1, rel=0.02)
        assert config.schedule.warmup_steps / entry.stop == pytest.approx(0.1, rel=0.02)
        assert config.data.batch_size == width // 4
    rates = {entry.config.schedule.peak for entry in planned}
    assert max(rates) / min(rates) == pytest.approx(64)
    pairs = {}
    for entry in planned:
        key = (entry.config.model.d_model, entry.config.schedule.peak, entry.config.seed)
        pairs.setdefault(key, []).append(entry.config.model)
    for (width, _, _), models in pairs.items():
        assert models == ([models[0]] if width == 16 else [models[0], standard(models[0])])
        assert models[0].mup_base_width == 16


def test_the_check_writes_its_record_and_names_what_standard_parametrisation_breaks(tmp_path, monkeypatch, capsys):
    sizes = pd.DataFrame(
        [
            (width, seed, step, quantity, part, layer, rms * (step or quantity == "activation"))
            for width, seed, step, layer in [
                (w, s, t, i) for w in (8, 32) for s in (0, 1) for t in (0, 1) for i in (0, 1)
            ]
            for quantity, part, rms in (("activation", "mlp", (3.0, 4.0)[layer]), ("update", "gate", (1 + 3 * seed)))
        ],
        columns=["width", "seed", "step", "quantity", "part", "layer", "rms"],
    )
    asked = []
    monkeypatch.setattr(
        coordinate_check, "coordinate_check", lambda models, tokens, **how: asked.append((models, how)) or sizes
    )
    settings = coordinate_check.Settings(widths=(8, 32), base_width=8, steps=1)
    coordinate_check.main(settings, tmp_path)
    (mup, how), (plain, _) = asked
    assert plain == [standard(model) for model in mup]
    assert [model.d_model for model in mup] == [8, 32]
    assert how == {"learning_rate": 0.01, "steps": 1, "seeds": (0, 1)}
    record = read_json(tmp_path / "coordinate_check.json")
    assert record["broken_rules"]["mup"] == ["learning rate of gate"]  # an update as large at either width
    assert record["settings"]["base_width"] == 8
    assert "versions" in record["provenance"]
    kept = pd.read_csv(tmp_path / "sizes.csv").set_index(["parametrization", "width", "step", "quantity", "part"])[
        "rms"
    ]
    assert kept["mup", 8, 1, "activation", "mlp"] == pytest.approx(12.5**0.5, rel=1e-4)  # over layers by mean square
    assert kept["mup", 8, 1, "update", "gate"] == pytest.approx(2.0)  # over seeds 1 and 4 by geometric mean
    assert len(pd.read_csv(tmp_path / "exponents.csv")) == 2 * (2 * 2 + 2)
    assert "learning rate of gate" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"widths": (64,)}, {"widths": (64, 64)}, {"steps": 0}])
def test_settings_that_give_no_exponent_are_refused(wrong):
    with pytest.raises(UserError, match=r"widths|steps"):
        coordinate_check.Settings(**wrong)
