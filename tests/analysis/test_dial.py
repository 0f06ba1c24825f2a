"""Facts about the settings of a dial that a page lets people turn through."""

from __future__ import annotations

from dataclasses import replace

from tests.report.reported_points import point
from trimtab.analysis.dial import dial_settings


def test_the_settings_are_of_one_dial() -> None:
    points = [
        replace(
            point("dial", value=alpha, task=task, safety=safety, seed=seed),
            multiplier=10.0 ** (1 - 2 * alpha),
        )
        for seed in (0, 1)
        for task, safety in (("chat", 0.1), ("code", 0.3))
        for alpha in (0.0, 0.5, 1.0)
    ]
    settings = dial_settings(points, None, ())
    assert [setting.alpha for setting in settings] == [0.0, 0.5, 1.0]
    assert {setting.place[0] for setting in settings} == {0.1}
