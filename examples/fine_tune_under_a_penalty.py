"""Case I: fine-tune on a task with λ times the loss on safety data, and see what each λ gives up.

Prints the loss on the task and on the original safety data, in nats per token, of the aligned model,
of plain fine-tuning (λ = 0) and of λ = 1. A few seconds on one CPU core.
"""

from __future__ import annotations

from small_world import aligned_model, settings

from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer


def main(steps: int = 80) -> None:
    folder, model, rows = aligned_model()
    print("            task loss   safety loss")
    for penalty in (None, 0.0, 1.0):
        trainer = SafetyAwareSFTTrainer(
            model,
            args=settings(folder, steps),
            train_dataset=rows["task-shared"],
            safety_dataset=rows["safety-near"],
            objective=AlignmentLossConstraint(penalty=penalty or 0.0),
        )
        if penalty is not None:
            trainer.train()
        task, safety = (
            trainer.evaluate(trainer._prepare_dataset(
                rows[name], trainer.processing_class, trainer.args, False, None, name
            ))["eval_loss"]
            for name in ("task-shared", "original")
        )
        label = "aligned" if penalty is None else f"λ = {penalty:g}"
        print(f"{label:<10} {task:>10.3f} {safety:>13.3f}")


if __name__ == "__main__":
    main()
