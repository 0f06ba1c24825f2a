"""Case I: fine-tune on a task plus λ times the loss on safety data. What does each λ give up?

Prints exact losses in nats per token: of the aligned model, of plain fine-tuning (λ = 0), of λ = 1.
Some 20 seconds of CPU time.
"""

from small_world import FOLDER, ORIGINAL, TASK, loss, trained

from trimtab import AlignmentLossConstraint


def main(steps: int = 60, aligning: int = 100) -> None:
    start = str(FOLDER / "aligned")
    trained(str(FOLDER / "base"), ORIGINAL, aligning).save_model(start)
    print("            task loss   safety loss")
    for penalty in (None, 0.0, 1.0):
        objective = AlignmentLossConstraint(penalty=penalty or 0.0)
        trainer = trained(start, TASK, steps if penalty is not None else 0, objective=objective)
        label = "aligned" if penalty is None else f"λ = {penalty:g}"
        safety = loss(trainer.model, ORIGINAL)
        print(f"{label:<10} {loss(trainer.model, TASK):>10.3f} {safety:>13.3f}")


if __name__ == "__main__":
    main()
