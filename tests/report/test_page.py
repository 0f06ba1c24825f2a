from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.report.reported_points import case_1, case_2, optima, point, sweep, world, write_points
from trimtab.config.methods import CASE_1
from trimtab.config.run_spec import RunSpec
from trimtab.data.synthetic import write_data
from trimtab.errors import UserError
from trimtab.report import Report, write_report
from trimtab.results.store import Failure, write_failures

AUDIT = Path(__file__).parent.parent.parent / "docs" / "audit" / "example.json"
COMPARISON = Path(__file__).parent.parent.parent / "docs" / "comparison" / "points.jsonl"
HOSTILE = '</script><script>alert("x")</script>'

OWN_SCRIPTS = 4
"""The library, the plots' data, the choices, and what draws them."""


def page(folder: Path) -> str:
    return write_report(folder).page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(write_points(tmp_path_factory.mktemp("sweep"), sweep()))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return [name for name, _ in self.elements].count(tag)


def test_a_sweep_becomes_a_page_and_nine_files(whole: Report) -> None:
    folder = whole.page.parent
    assert whole.page.name == "report.html"
    assert {path.name for path in whole.figures} == {
        f"figure{number}.{kind}" for number in (1, 2, 3) for kind in ("png", "svg", "pdf")
    }
    assert all(path.parent == folder / "figures" and path.exists() for path in whole.figures)
    assert not list(folder.rglob("*.tmp"))
    text = whole.page.read_text(encoding="utf-8")
    for finding in whole.findings:
        assert finding.verdict in text


def test_no_points_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"points\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "points.jsonl").write_text("")
    with pytest.raises(UserError, match="no point is finished"):
        write_report(tmp_path)


def test_a_broken_experiment_is_named(tmp_path: Path) -> None:
    write_points(tmp_path, [point(penalty=1.0)])
    (tmp_path / "experiment.yaml").write_text("[{")
    with pytest.raises(UserError, match=r"experiment\.yaml") as raised:
        write_report(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_broken_side_file_costs_what_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_points(tmp_path, [point(penalty=1.0)])
    (tmp_path / "data.json").write_text("[{")
    write_report(tmp_path)
    assert "data.json" in caplog.text
    assert "which rows were used is not known" in caplog.text


def test_one_point_is_a_page(tmp_path: Path) -> None:
    text = page(write_points(tmp_path, [point(penalty=1.0)]))
    assert "1 trained model over 1 task and 1 set of safety data" in text
    assert "Figure 2 needs Case II" in text
    assert not (tmp_path / "figures" / "figure2.png").exists()


def test_a_figure_that_can_no_longer_be_drawn_is_removed(tmp_path: Path) -> None:
    write_report(write_points(tmp_path, case_2()))
    assert (tmp_path / "figures" / "figure2.svg").exists()
    write_report(write_points(tmp_path, case_1()))
    assert not (tmp_path / "figures" / "figure2.svg").exists()


def test_what_another_experiment_drew_is_removed_and_what_is_ones_own_stays(tmp_path: Path) -> None:
    write_report(write_points(tmp_path, case_1()))
    left = [tmp_path / "figures" / name for name in ("figure5.png", "figure6.svg")]
    mine = [tmp_path / "figures" / name for name in ("figure-of-mine.png", "notes.txt")]
    methods = tmp_path / "methods.json"
    for path in (*left, *mine, methods):
        path.write_text("x")
    write_report(tmp_path)
    assert not any(path.exists() for path in (*left, methods))
    assert all(path.exists() for path in mine)


def test_the_page_needs_nothing_but_itself(whole: Report) -> None:
    text = whole.page.read_text(encoding="utf-8")
    for tag, attributes in Tags(text).elements:
        assert not (attributes.get("src") or "").startswith(("http", "//"))
        if tag == "link":
            assert attributes["href"] == "data:,"
    assert text.count("window.vegaEmbed=") == 1


def test_the_page_is_small(whole: Report) -> None:
    assert whole.page.stat().st_size < 1_500_000


def test_the_page_of_hundreds_of_models_is_small(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_bytes(COMPARISON.read_bytes())
    assert write_report(tmp_path).page.stat().st_size < 1_500_000


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    points = [
        point(penalty=penalty, proxy=HOSTILE, task=f"{HOSTILE} & 'b'") for penalty in (0.1, 1.0)
    ]
    write_points(tmp_path, points)
    spec = RunSpec(CASE_1, 1.0, HOSTILE, HOSTILE, 0)
    write_failures(tmp_path, [Failure(spec, f"NaN {HOSTILE}")])
    (tmp_path / "experiment.yaml").write_text(json.dumps({"model": HOSTILE}))
    data = {"role": "task", "name": HOSTILE, "path": HOSTILE, "train_rows": 1}
    data |= {"held_out_rows": 1, "warnings": [HOSTILE]}
    (tmp_path / "data.json").write_text(json.dumps([data]))
    text = page(tmp_path)
    assert Tags(text).count("script") == OWN_SCRIPTS
    assert HOSTILE not in text


def test_settings_data_and_failures_are_shown(tmp_path: Path) -> None:
    write_points(tmp_path, [point(penalty=1.0)])
    spec = RunSpec(CASE_1, 1000.0, "near", "chat", 0)
    write_failures(tmp_path, [Failure(spec, "the loss was NaN at step 12")])
    (tmp_path / "experiment.yaml").write_text(
        "train: {learning_rate: 0.01}\ngrid:\n- {case: alignment-loss, penalties: [0.1, 1]}\n"
    )
    data = {"role": "task", "name": "chat", "path": "chat.jsonl", "train_rows": 1234}
    data |= {"held_out_rows": 56, "warnings": ["3 rows repeat"]}
    (tmp_path / "data.json").write_text(json.dumps([data]))
    text = page(tmp_path)
    for words in (
        "train.learning_rate",
        "grid[1].penalties",
        "0.1, 1",
        "1,234",
        "3 rows repeat",
        "λ\u00a0=\u00a01000",
        "the loss was NaN at step 12",
    ):
        assert words in text


def test_what_is_absent_has_no_heading(tmp_path: Path) -> None:
    text = page(write_points(tmp_path, [point(penalty=1.0)]))
    for words in ("Failures", "Settings", "Theory: optimality gap", "What the models show"):
        assert f">{words}" not in text


def test_a_world_shows_how_near_the_limit_is(tmp_path: Path) -> None:
    known_world = world()
    write_data(known_world, tmp_path, rows=4)
    text = page(write_points(tmp_path, optima(known_world)))
    assert ">Theory: optimality gap</h2>" in text
    assert "Every measured model keeps to both limits" in text
    assert "A mistake somewhere" not in text


@pytest.mark.parametrize(
    ("near", "far", "stated", "verdict", "says"),
    [
        ((0.0, 0.1), (0.4, 0.6), {}, "holds", "total variation"),
        ((0.4, 0.6), (0.0, 0.1), {}, "does not hold", "total variation"),
        ((0.0, 0.3), (0.2, 0.6), {}, "undecided", "not known"),
        ((0.4, 0.6), (0.0, 0.1), {"near": 1.0, "far": 2.0}, "holds", "distance stated"),
        # Two sources have no common unit: what is stated of one proxy alone orders nothing.
        ((0.0, 0.1), (0.4, 0.6), {"near": 1.0}, "undecided", "not known"),
    ],
)
def test_the_audit_says_which_proxy_is_nearer(
    near: tuple[float, float],
    far: tuple[float, float],
    stated: dict[str, float],
    verdict: str,
    says: str,
    tmp_path: Path,
) -> None:
    points = [
        replace(model, spec=replace(model.spec, seed=seed))
        for model in (*case_1("near"), *case_1("far", floor=0.2))
        for seed in (0, 1)
    ]
    write_points(tmp_path, points)
    audit = json.loads(AUDIT.read_text(encoding="utf-8"))
    for similarity in audit["similarity"]:
        low, high = {"near": near, "far": far}[similarity["proxy"]]
        # By hidden states, which proxies are not ordered by.
        similarity["total_variation"]["value"] = 1.0
        similarity["by_words"] = {
            **similarity["total_variation"],
            **{"value": (low + high) / 2, "low": low, "high": high},
        }
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    safety = {name: {"path": name, "distance": stated.get(name)} for name in ("near", "far")}
    (tmp_path / "experiment.yaml").write_text(json.dumps({"safety": safety}))
    (nearer,) = [
        finding for finding in write_report(tmp_path).findings if "nearer" in finding.statement
    ]
    assert nearer.verdict == verdict
    assert says in nearer.evidence


def test_a_point_below_the_limit_is_told_loudly(tmp_path: Path) -> None:
    known_world = world()
    write_data(known_world, tmp_path, rows=4)
    points = [point(penalty=10.0, safety=0.001, capability=0.001)]
    report = write_report(write_points(tmp_path, points))
    text = report.page.read_text(encoding="utf-8")
    assert 'role="alert"' in text
    assert 'class="alarm"' in text
    assert report.findings[-1].verdict == "does not hold"


def test_every_plot_has_words_for_who_cannot_see_it(whole: Report) -> None:
    tags = Tags(whole.page.read_text(encoding="utf-8"))
    plots = [attributes for _, attributes in tags.elements if "data-plot" in attributes]
    assert len(plots) == 5
    assert all(attributes["aria-label"] for attributes in plots)
    assert dict(tags.elements)["html"] == {"lang": "en"}


def test_the_page_has_no_nan(tmp_path: Path) -> None:
    text = page(write_points(tmp_path, [*case_1(half_width=0.1), point(penalty=3.0, safety=None)]))
    plots = re.search(r'id="plots">(.*?)</script>', text, re.DOTALL)
    assert plots is not None
    parsed = json.loads(plots[1], parse_constant=lambda name: pytest.fail(name))["plots"]
    assert len(parsed) == 2
    assert np.isfinite(parsed[0]["encoding"]["x"]["scale"]["domain"]).all()


def test_a_report_is_made_without_torch() -> None:
    code = "import sys, trimtab.report; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_colour_is_said_to_mean_one_thing_only_where_the_colours_suffice(tmp_path: Path) -> None:
    said = "mean one thing in every plot"
    assert said in write_report(write_points(tmp_path, sweep())).page.read_text(encoding="utf-8")
    many = [model for task in "abcdefgh" for model in case_1(task=task)]
    page = write_report(write_points(tmp_path, many)).page.read_text(encoding="utf-8")
    assert said not in page
    assert "Black are plain fine-tuning" in page
