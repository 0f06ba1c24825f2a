"""The last lines of a training: what it changed, where the model is, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.command import say
from trimtab.config.loading import Loading
from trimtab.results.layout import ALIGNED_FOLDER, DIAL_FOLDER, MODELS_FOLDER, model_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trimtab.analysis.changes import LossChange, RateChange
    from trimtab.analysis.choices import Choice
    from trimtab.analysis.groups import Setting
    from trimtab.config.experiment import Experiment
    from trimtab.config.methods import Method
    from trimtab.config.run_spec import RunSpec
    from trimtab.stats import Estimate

MOST_CHOICES = 20
"""Lines of a table that a terminal shows; the page has them all."""


def print_training_summary(experiment: Experiment, out: Path, name: str) -> None:
    """Say what one training changed, and where the model is."""
    from trimtab.analysis.changes import less_safe_in_words, loss_changes, rate_changes
    from trimtab.analysis.labels import budget_in_words
    from trimtab.config.experiment import PHRASES
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    points, rows = read_points(out), RowLosses(out)
    model_points = [point for point in points if point.model == name]
    changes = loss_changes(model_points, points, rows)
    rates = rate_changes(model_points[0], points, rows) if model_points else ()
    model = model_folder(out, name)
    summary = ", ".join(_change_text(change) for change in changes)
    say(f"{summary[:1].upper()}{summary[1:]}, in nats per token; the model is in {model}.")
    say(f"Less safe than the start? {less_safe_in_words(changes, rates)}.")
    for point in model_points[:1]:
        if point.budget_verdict is not None:
            say(f"By held-out rows: {budget_in_words(point)}.")
    if rates:
        judge = experiment.answers.judges[0] if experiment.answers else PHRASES
        say(f"By {judge}: {', '.join(map(_rate_text, rates))}.")
    say(f"Open {out / 'report.html'} for the figures.")
    if not rates and (evaluate := evaluate_command(experiment, out, model)):
        say(f"To have its answers judged: {evaluate}")
    if model_points and not model_points[0].spec.is_plain:
        say(
            f"What plain fine-tuning does: {_plain_words(experiment, model_points[0].spec.method)}."
        )


def tell_budget(budget: float, chosen_rise: Estimate, rise: Estimate) -> None:
    """Say how a model that was chosen for a budget keeps to it, on the rows that took no part."""
    from trimtab.analysis.labels import VERDICTS, spent_in_words
    from trimtab.stats import verdict

    share = spent_in_words(rise, budget)
    spent = f"; {share}" if share else ""
    if rise.kind == "exact":
        say(f"Safety loss over the start, budget {budget:g}: {estimate_text(rise)}{spent}")
        return
    say(f"Safety loss over the start, budget {budget:g}:")
    say(f"  on the rows it was chosen by: {estimate_text(chosen_rise)}")
    say(f"  on held-out rows besides:     {estimate_text(rise)}")
    say(f"  {VERDICTS[verdict(rise, budget)]}{spent}.")


def estimate_text(estimate: Estimate) -> str:
    """A loss, or a change of one, with its interval, its unit and its kind."""
    from trimtab.analysis.labels import estimate_in_words

    return f"{estimate_in_words(estimate)} nats per token ({estimate.kind})"


def _change_text(change: LossChange) -> str:
    from trimtab.analysis.labels import before_and_after

    assert change.start is not None  # the sweep measures it first
    return f"{change.what} {before_and_after(change.start, change.now, change.change)}"


def _rate_text(change: RateChange) -> str:
    from trimtab.analysis.labels import percent

    before = f"{percent(change.start.value)} → " if change.start is not None else ""
    of = f" of {change.prompts}" if change.prompts is not None else ""
    change_text = ""
    if change.change is not None:
        points = [f"{100 * end:+.0f}" for end in (change.change.low, change.change.high)]
        change_text = f" [{', '.join(points)} points]".replace("-", "−")
    return f"{change.rate.in_words} {before}{percent(change.now.value)}{of}{change_text}"


def _plain_words(experiment: Experiment, method: Method) -> str:
    """How the command of a training becomes that of plain fine-tuning."""
    from trimtab.config.experiment import Training
    from trimtab.config.methods import CASE_1_BUDGET, CASE_2_RADIUS

    in_place = ""
    if method is CASE_2_RADIUS:
        in_place = " in place of --radius"
    elif method is CASE_1_BUDGET:
        has_rows = experiment.train.validation_rows != Training.validation_rows
        in_place = f" in place of --budget{' and --validation-rows' if has_rows else ''}"
    return f"the same command with --penalty 0{in_place} and another --out"


def evaluate_command(experiment: Experiment, out: Path, model: Path) -> str | None:
    """The command that has a trained model's answers judged beside the start's, loaded as here.

    None of a start at a revision, which `evaluate` has no option for.
    """
    if experiment.load.revision is not None:
        return None
    start = str(out / ALIGNED_FOLDER) if experiment.align else experiment.model
    prompts = ["--harmful", "jailbreakbench", "--benign", "jailbreakbench"]
    answers = ["--judge", "phrases", "--out", str(out / "answers")]
    loading = _loading_options(experiment.load)
    return shlex.join(["trimtab", "evaluate", start, str(model), *prompts, *answers, *loading])


def _loading_options(load: Loading) -> list[str]:
    """The options of `evaluate` by which an adapter trained so, and its start, are loaded.

    An adapter is not merged into quantised weights: these are loaded whole, in what the model was
    saved in where nothing else is said.
    """
    options = {
        "--dtype": "auto" if load.is_quantised and load.dtype == "float32" else load.dtype,
        "--attention": load.attention,
        "--device-map": load.device_map,
    }
    defaults = (None, Loading.dtype)
    return [word for item in options.items() if item[1] not in defaults for word in item if word]


def print_settings_to_choose(experiment: Experiment, out: Path) -> None:
    """Print the settings to choose from, by task loss, and how to choose by a budget."""
    from trimtab.analysis.choices import choices
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    for (proxy, task), setting_choices in choices(read_points(out), RowLosses(out)).items():
        if setting_choices:
            say(f"Task {task}, safety data {proxy}: changes from the start, nats per token.")
            _print_choices(setting_choices, out)
            knee = next((choice.setting for choice in setting_choices if choice.is_knee), None)
            command = command_to_make(knee, experiment, out) if knee is not None else ()
            for line in ("To make the model at the knee:", *command) if command else ():
                say(line)
    suggest = shlex.join(["trimtab", "suggest", str(out), "--budget", "0.02"])
    say(f"To choose by how far the safety loss may rise: {suggest}")


def saved_models(setting: Setting, folder: Path) -> list[Path]:
    """Where the models of a setting are, of those that were kept."""
    names = dict.fromkeys(point.model for point in setting.points if point.model)
    return [model for name in names if (model := model_folder(folder, name)).exists()]


def command_to_make(setting: Setting, experiment: Experiment, folder: Path) -> tuple[str, ...]:
    """The lines that make a setting's model from the experiment recorded in `folder`.

    DATA in them stands for the folder of the data, where these are not where it says. There are
    none where a model is kept, or where no command makes it as it was made.
    """
    from trimtab.config.grid import plan_of
    from trimtab.config.methods import DIAL

    if saved_models(setting, folder):
        return ()
    if setting.method is DIAL and (folder / DIAL_FOLDER).exists():
        return _command_to_set_dial(folder, setting.value)
    specs = [point.spec for point in setting.points if point.seed == experiment.seeds[0]]
    for run in plan_of(experiment).runs:
        for spec in run.specs:
            if spec in specs:
                if setting.method is DIAL or setting.method.is_post_hoc:
                    return _commands_after_training(run.name, spec, experiment, folder)
                model = spec.folder if spec.method.keeps_each else run.name
                return _commands_to_make(model, experiment, folder, "chosen")
    return ()


def _commands_to_make(
    model: str, experiment: Experiment, folder: Path, out: str
) -> tuple[str, ...]:
    from trimtab.config.yaml_io import EXPERIMENT_FILE

    root = ["--data-root", "DATA"] if _lacks_data(experiment) else []
    return _command_lines(
        ["trimtab", "sweep", str(folder / EXPERIMENT_FILE), *root],
        ["--only", model, "--out", out],
    )


def _commands_after_training(
    name: str, spec: RunSpec, experiment: Experiment, folder: Path
) -> tuple[str, ...]:
    """A setting was measured and not kept: it is made from what was trained, or that anew."""
    from trimtab.config.methods import DIAL

    is_kept = model_folder(folder, name).exists()
    trained = folder if is_kept else Path("trained")
    model = model_folder(trained, name)
    if spec.method is DIAL:
        setting = _command_to_set_dial(model, spec.value)
    elif experiment.load == Loading() and not (spec.method.takes_seed and spec.seed):
        aligned = str(trained / ALIGNED_FOLDER) if experiment.align else experiment.model
        unaligned = ["--unaligned", experiment.model] if spec.method.needs_unaligned else []
        setting = _command_lines(
            ["trimtab", "repair", spec.method.name, "--model", str(model)],
            ["--aligned", aligned, *unaligned],
            [f"--strength={spec.value:.6g}", "--out", "chosen"],
        )
    else:  # `repair` loads all models in float32, and draws by seed 0
        return ()
    training = () if is_kept else _commands_to_make(name, experiment, folder, str(trained))
    return (*training, *setting)


def _command_to_set_dial(dial: Path, alpha: float | None) -> tuple[str, ...]:
    words = ["trimtab", "dial", "set", str(dial), "--alpha", f"{alpha:.6g}", "--out", "chosen"]
    return _command_lines(words)


def _command_lines(*parts: Sequence[str]) -> tuple[str, ...]:
    """A command for a shell, a line for each part."""
    return tuple(" \\\n    ".join(map(shlex.join, parts)).split("\n"))


def _lacks_data(experiment: Experiment) -> bool:
    """Whether files that it names are not where it says, so that their folder has to be given."""
    from trimtab.data.files import MissingFilesError, require_files

    sources = [*experiment.safety.values(), *experiment.task.values()]
    sources += [experiment.original] if experiment.original else []
    try:
        require_files((("", source.path) for source in sources), Path(experiment.data_root))
    except MissingFilesError:
        return True
    return False


def _print_choices(choices: Sequence[Choice], out: Path) -> None:
    from rich.table import Table

    from trimtab.analysis.labels import change_in_words
    from trimtab.cli.progress import output_console, plain

    original = any(point.alignment_loss for choice in choices for point in choice.setting.points)
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("original safety loss" if original else "safety loss", no_wrap=True)
    table.add_column("task loss", no_wrap=True)
    table.add_column(plain(f"model in {out / MODELS_FOLDER}"), overflow="fold")
    for choice in choices[:MOST_CHOICES]:
        table.add_row(
            plain(_name(choice.setting)) + (" ← knee" if choice.is_knee else ""),
            change_in_words(choice.safety_change),
            change_in_words(choice.task_change),
            plain(_saved_models_text(choice.setting, out)),
        )
    output_console().print(table, highlight=False)
    if len(choices) > MOST_CHOICES:
        say(f"and {len(choices) - MOST_CHOICES} more in {out / 'report.html'}.")


def _name(setting: Setting) -> str:
    method = setting.method.brief
    return method if setting.value is None else f"{method}, {setting.label}"


def _saved_models_text(setting: Setting, out: Path) -> str:
    """The first of a setting's kept models and how many more, a dash where none was kept."""
    names = [model.name for model in saved_models(setting, out)]
    if len(names) > 1:
        return f"{names[0]} and {len(names) - 1} of other seeds"
    return names[0] if names else "–"
