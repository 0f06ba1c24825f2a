"""One training that holds every trade-off: turn the dial afterwards, without training again.

Prints exact losses, in nats per token, at five settings α from 0, the safest, to 1, the most
capable. Some 20 seconds of CPU time.
"""

from small_world import FOLDER, ORIGINAL, TASK, loss, trained

from trimtab import DialObjective


def main(steps: int = 120, aligning: int = 100) -> None:
    start = str(FOLDER / "aligned")
    trained(str(FOLDER / "base"), ORIGINAL, aligning).save_model(start)
    trainer = trained(start, TASK, steps, objective=DialObjective())
    dial = trainer.objective.endpoints
    print("setting   task loss   safety loss")
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        dial.set_alpha(alpha)
        safety = loss(dial.model, ORIGINAL)
        print(f"α = {alpha:<5g} {loss(dial.model, TASK):>8.3f} {safety:>13.3f}")


if __name__ == "__main__":
    main()
