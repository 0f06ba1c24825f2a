"""A safety budget in place of λ: say what the safety loss may rise by, and let the run learn λ.

Prints the λ that was learned, and the change of the safety loss on rows kept from training, with
its 95 % interval: within the budget, beyond it, or undecided. Some 20 seconds of CPU time.
"""

from small_world import FOLDER, ORIGINAL, TASK, loss, trained

from trimtab import AlignmentLossConstraint


def main(steps: int = 60, aligning: int = 100) -> None:
    start = str(FOLDER / "aligned")
    trained(str(FOLDER / "base"), ORIGINAL, aligning).save_model(start)
    for budget in (0.05, 0.2):
        objective = AlignmentLossConstraint(budget=budget)
        trainer = trained(start, TASK, steps, objective=objective)
        outcome = trainer.objective.outcome
        change = outcome.change
        print(f"budget {budget:g}: λ = {outcome.penalty:.2f}, {outcome.verdict}")
        print(f"  safety loss {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
        print(f"  task loss {loss(trainer.model, TASK):.3f}, in nats per token")


if __name__ == "__main__":
    main()
