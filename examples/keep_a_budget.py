"""A safety budget in place of λ: say what the safety loss may rise by.

A dial is trained and set to it. Prints the setting, the λ that it was trained at there, and the
change of the safety loss on rows kept from training, with its 95 % interval: within the budget,
beyond it, or undecided. Some 20 seconds of CPU time.
"""

from small_world import FOLDER, ORIGINAL, TASK, loss, trained

from trimtab import Budget


def main(steps: int = 60, aligning: int = 100) -> None:
    start = str(FOLDER / "aligned")
    trained(str(FOLDER / "base"), ORIGINAL, aligning).save_model(start)
    for budget in (0.05, 0.2):
        objective = Budget(budget=budget)
        trainer = trained(start, TASK, steps, objective=objective)
        outcome = trainer.objective.outcome
        change = outcome.change
        reached = f"α = {outcome.alpha:g}, λ = {outcome.penalty:.2g}"
        print(f"budget {budget:g}: {reached}, {outcome.verdict}")
        print(f"  safety loss {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
        print(f"  task loss {loss(trainer.model, TASK):.3f}, in nats per token")


if __name__ == "__main__":
    main()
