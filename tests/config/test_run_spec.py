"""Facts about specs: what names a model, what it shares, and that old files are read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.config.grid import Run
from trimtab.config.methods import (
    ALIGNED,
    CASE_1,
    CASE_1_BUDGET,
    CASE_2,
    CASE_2_BUDGET,
    CASE_2_RADIUS,
    DIAL,
    METHODS,
    PLAIN,
    PUBLISHED,
    Method,
)
from trimtab.config.run_spec import RunSpec

values = st.floats(allow_nan=False) | st.none()
specs = st.builds(
    RunSpec,
    st.sampled_from(list(METHODS.values())),
    values,
    st.none() | st.text(min_size=1, max_size=4),
    st.text(min_size=1, max_size=4),
    st.integers(0, 3),
)


def spec(method: Method, value: float | None = None, seed: int = 0) -> RunSpec:
    return RunSpec(method, value, "near", "code", seed)


@given(specs)
def test_a_spec_comes_back_from_json(run_spec: RunSpec) -> None:
    if run_spec.value != -math.inf:
        assert RunSpec.from_json(json.loads(json.dumps(run_spec.to_json()))) == run_spec


@given(specs, specs)
def test_different_specs_have_different_folders(first: RunSpec, second: RunSpec) -> None:
    apart = {first.training, second.training}
    assert len({training.folder for training in apart}) == len(apart)


FIRST_VERSION: list[tuple[dict[str, Any], RunSpec]] = [
    ({"case": "aligned"}, spec(ALIGNED)),
    ({"case": "alignment-loss", "penalty": 0.3}, spec(CASE_1, 0.3)),
    ({"case": "alignment-loss", "penalty": 0.0}, spec(CASE_1, 0.0)),
    ({"case": "alignment-loss", "budget": -0.1}, spec(CASE_1_BUDGET, -0.1)),
    ({"case": "alignment-loss", "budget": "inf"}, spec(CASE_1_BUDGET, math.inf)),
    ({"case": "alignment-parameter", "penalty": 1.0}, spec(CASE_2, 1.0)),
    ({"case": "alignment-parameter", "radius": "inf"}, spec(CASE_2_RADIUS, math.inf)),
    ({"case": "alignment-parameter", "budget": 0.1}, spec(CASE_2_BUDGET, 0.1)),
    ({"case": "dial", "alpha": 0.5, "penalty": 1.0}, spec(DIAL, 0.5)),
    ({"case": "method", "method": "ewc", "knob": 3.0}, spec(PUBLISHED["ewc"], 3.0)),
]


@pytest.mark.parametrize(("record", "made"), FIRST_VERSION, ids=str)
def test_what_the_first_version_wrote_is_read(record: dict[str, Any], made: RunSpec) -> None:
    absent = dict.fromkeys(("penalty", "radius", "budget", "alpha", "method", "knob"))
    data = {"proxy": "near", "task": "code", "seed": 0}
    assert RunSpec.from_json(absent | data | record) == made
    assert RunSpec.from_json(data | record) == made  # an earlier one still lacked some fields


@pytest.mark.parametrize("record", [{"case": 1}, {"case": "alignment-loss"}, {"method": "no"}, {}])
def test_what_is_no_spec_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        RunSpec.from_json({"proxy": None, "task": "code", "seed": 0} | record)


def test_what_does_not_bind_is_the_training_of_plain_fine_tuning() -> None:
    plain = RunSpec(PLAIN, None, None, "code", 0)
    off = [spec(method, method.plain_at) for method in METHODS.values()]
    assert {run_spec.training for run_spec in off if run_spec.value is not None} == {plain}
    after = [
        spec(method, method.grid[0])
        for method in PUBLISHED.values()
        if method.stage == "after training"
    ]
    assert {run_spec.training for run_spec in after} == {plain}


def test_what_reads_no_safety_rows_is_trained_once_for_all_proxies() -> None:
    for method in METHODS.values():
        run_spec = spec(method, 0.5)
        if method.stage == "training" and not run_spec.is_plain:
            assert (run_spec.training.proxy is None) == (not method.reads_safety)


def test_a_dial_is_one_training_for_all_its_settings() -> None:
    assert spec(DIAL, 0.2).training == spec(DIAL, 0.8).training


def test_budgets_are_one_training_and_each_keeps_a_model() -> None:
    tight, loose = spec(CASE_1_BUDGET, 0.05), spec(CASE_1_BUDGET, 0.1)
    assert tight.training == loose.training
    run = Run(tight.training, (tight, loose))
    assert run.models == (tight.folder, loose.folder)
    assert run.name not in run.models


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_value_has_a_label(method: Method) -> None:
    label = method.label(0.25)
    assert "0.25" in label
    assert len(label) > len("0.25")  # the hyperparameter is named
