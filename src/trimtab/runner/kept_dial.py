"""Where both ends of a trained dial lie: in the folder of `trimtab dial train`, or in a sweep's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.config.experiment import Experiment
from trimtab.config.grid import plan_of
from trimtab.config.methods import DIAL
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import EXPERIMENT_FILE, recorded_experiment
from trimtab.errors import UserError
from trimtab.results.layout import DIAL_FOLDER, MODELS_FOLDER, model_folder, setting_name


@dataclass(frozen=True)
class KeptDial:
    """A dial that was trained, and the experiment it is of."""

    experiment: Experiment
    folder: Path
    """The experiment's."""
    ends: Path
    """The folder of the two ends."""
    spec: RunSpec
    """Of its training."""

    @property
    def is_of_sweep(self) -> bool:
        return bool(self.experiment.grid)

    def at(self, alpha: float) -> RunSpec:
        """The spec of a setting."""
        return replace(self.spec, value=alpha)

    def name_at(self, alpha: float) -> str:
        """What the answers and losses of a setting are kept under."""
        return setting_name(self.spec.folder if self.is_of_sweep else DIAL.name, alpha)


def kept_dial(folder: Path) -> KeptDial:
    """The dial whose ends `trimtab dial train` wrote to `folder`, or a sweep kept there.

    Raises:
        UserError: there is none; it is told which of a sweep's folders to give.
    """
    if (folder / DIAL_FOLDER).exists():
        experiment = recorded_experiment(folder)
        return KeptDial(experiment, folder, folder / DIAL_FOLDER, training_of(experiment))
    ends = folder.resolve()
    if ends.parent.name == MODELS_FOLDER:
        for dial in _dials_of_sweep(ends.parent.parent):
            if dial.ends == ends:
                return dial
    advice = "Give the folder that 'trimtab dial train' wrote, or a dial among a sweep's models."
    if kept := _dials_of_sweep(folder):
        advice = f"This sweep kept some: give {kept[0].ends}."
    raise UserError(f"{folder} holds no trained dial. {advice}")


def training_of(experiment: Experiment) -> RunSpec:
    """The one training of an experiment that has a dial alone."""
    (task,), (proxy,), (seed,) = experiment.task, experiment.safety, experiment.seeds
    return RunSpec(DIAL, None, proxy, task, seed)


def _dials_of_sweep(folder: Path) -> list[KeptDial]:
    """Those whose ends a sweep in `folder` kept."""
    if not (folder / EXPERIMENT_FILE).exists():
        return []
    experiment = recorded_experiment(folder)
    dials = [
        KeptDial(experiment, folder, model_folder(folder, run.name), run.training)
        for run in plan_of(experiment).runs
        if run.training.method is DIAL
    ]
    return [dial for dial in dials if dial.ends.exists()]
