"""What a report is made from: the files that an experiment left in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from trimtab.config.yaml_io import EXPERIMENT_FILE
from trimtab.data.synthetic import World, load_world
from trimtab.errors import UserError
from trimtab.results.data_summary import DataSummary, read_data
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.samples import Sample, read_samples
from trimtab.results.store import Failure, read_failures, read_landscape, read_points
from trimtab.stats import Estimate

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Results:
    """An experiment's points and whatever else its folder tells."""

    points: tuple[Point, ...]
    failures: tuple[Failure, ...]
    settings: Mapping[str, Any]
    data: tuple[DataSummary, ...]
    world: World | None
    landscape: Mapping[str, LocalGeometry]
    samples: tuple[Sample, ...]
    rows: RowLosses
    """What each held-out row cost each model, where the experiment kept it."""

    def records(self) -> list[dict[str, Any]]:
        """A flat record of each measured model, all with the same names in the same order.

        First how it was made: method, hyperparameter, value, proxy, task, seed. Then the fields of
        `Point` by their names: an estimate `x` is `x` and the ends of its 95 % interval `x_low` and
        `x_high`, its unit `x_unit` and its kind `x_kind` (exact, bound or estimate). What was not
        measured is None.
        """
        return [_flat(point) for point in self.points]

    def frame(self) -> pandas.DataFrame:
        """The records as a data frame: one row for each measured model, in the order made.

        Losses and gaps are in nats per token as `x_unit` says, `distance` is ‖θ − θ_s‖,
        `train_tokens` are tokens and `wall_seconds` seconds.
        """
        import pandas

        return pandas.DataFrame(self.records())


def read_results(folder: Path) -> Results:
    """The results in a folder; only the points must be there.

    Raises:
        UserError: there are no points, or a file is not what its name says.
    """
    points = read_points(folder)
    if not points:
        raise UserError(f"{folder}: no point is finished yet. Let 'trimtab sweep' make one.")
    return Results(
        tuple(points),
        tuple(read_failures(folder)),
        read_settings(folder),
        read_data(folder),
        load_world(folder),
        read_landscape(folder),
        read_samples(folder),
        RowLosses(folder),
    )


_ESTIMATES = frozenset(
    name for name, hint in get_type_hints(Point).items() if hint in (Estimate, Estimate | None)
)


def _flat(point: Point) -> dict[str, Any]:
    record = point.spec.to_json() | {"value": point.spec.value}
    for name in (point_field.name for point_field in fields(Point) if point_field.name != "spec"):
        value = getattr(point, name)
        if name not in _ESTIMATES:
            record[name] = value
            continue
        parts = ("low", "high", "unit", "kind")
        record[name] = None if value is None else value.value
        record |= {f"{name}_{part}": getattr(value, part, None) for part in parts}
    return record


def read_settings(folder: Path) -> Mapping[str, Any]:
    """The experiment of a folder as plain values; none where it is not recorded.

    Raises:
        UserError: the record is no mapping in YAML.
    """
    path = folder / EXPERIMENT_FILE
    if not path.exists():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise UserError(f"{path}: not YAML ({place}). Restore the file, or remove it.") from None
    if not isinstance(settings, Mapping):
        raise UserError(f"{path}: not a mapping of settings. Restore the file, or remove it.")
    return settings
