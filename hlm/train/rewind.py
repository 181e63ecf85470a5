"""What a run does about a spike (hlm/train/guard.py): tell of it, or go back to a checkpoint."""

from hlm.checkpoint import Checkpoints
from hlm.config import Guard
from hlm.train.stop import say


class Spiked(Exception):
    """A step was a spike, and the run is to go back to a checkpoint before it."""

    def __init__(self, step: int):
        super().__init__(f"step {step} was a spike")
        self.step = step


class Spikes:
    """Hears of each spike, in every process at the same step.

    How often the run went back is counted from one checkpoint only and kept nowhere: a run that is
    killed begins at that checkpoint, meets the same spikes and counts the same.
    """

    def __init__(self, guard: Guard | None, checkpoints: Checkpoints, lead: bool):
        self.most = guard.then.most if guard is not None else 0
        self.checkpoints, self.lead = checkpoints, lead
        self.back, self.times = -1, 0  # the checkpoint that it went back to last, and how often

    def heard(self, step: int, norm: float, loss: float) -> None:
        """Raises Spiked if the run should go back."""
        before = self.checkpoint(step)
        again = before is not None and not (before == self.back and self.times >= self.most)
        if self.most and again:
            raise Spiked(step)
        if self.lead:
            say(f"step {step} is left out: gradient norm {norm:.3g}, loss {loss:.4g}")

    def checkpoint(self, step: int) -> int | None:
        """The newest one from before a step; one of the step itself may have caused the spike."""
        return max((n for n in self.checkpoints.steps if n < step), default=None)

    def went_back(self, step: int, to: int) -> None:
        self.times = self.times + 1 if to == self.back else 1
        self.back = to
        if self.lead:
            say(f"step {step} was a spike: back to checkpoint {to}, with the text behind that step")
