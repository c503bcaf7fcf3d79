"""What a run as a whole says, in plain words: its shape, and where in the network the information is."""

import shlex
from collections.abc import Sequence

from fisher_cli.reports.layout import place, shorten
from fisher_cli.reports.numbers import finite, number_text, number_texts, unbroken
from fisher_cli.results import UNSETTLED_NOTE, Measurement
from fisher_cli.tables.trajectory import Shape, Trajectory, networks, trajectory_of
from fisher_cli.text import one_line

# The layers whose shares are told, and how much of a name.
_LAYERS, _NAME = 3, 24


def verdict(measurements: Sequence[Measurement]) -> str:
    """Whether the true trace shows a bell, where it is largest, and the empirical Fisher's part of it at the end.

    Nothing is claimed that the differences between the checkpoints do not carry. Rows that are doubted have no part in
    it; `left_out_rows` names them.

    Returns:
        A sentence; numbers hold no-break spaces, so that wrapping keeps them whole.
    """
    found = trajectory_of(measurements)
    if found is None:
        return _nothing(measurements)
    return f"{_Words(measurements, found).shape()}{_empirical(measurements, found)}."


def trace_sentence(measurements: Sequence[Measurement]) -> str:
    """What `verdict` says of the true trace alone."""
    found = trajectory_of(measurements)
    return _nothing(measurements) if found is None else f"{_Words(measurements, found).shape(whole=False)}."


def left_out_rows(measurements: Sequence[Measurement], command: Sequence[str] = ()) -> list[str]:
    """Which rows the sentences about the run leave out, why, and the command that would count them.

    Args:
        measurements: in order of training.
        command: the words that made them, `fisher` first; empty where they were made from Python.

    Returns:
        Sentences, none where no row with a trace is doubted.
    """
    doubted = [each for each in measurements if each.trace is not None and each.doubt]
    said = []
    for doubt in dict.fromkeys(each.doubt for each in doubted):
        names = [place(each) for each in doubted if each.doubt == doubt]
        if len(names) > 4:
            names = [*names[:2], f"{len(names) - 3} more", names[-1]]
        one = len(names) == 1
        where = names[0] if one else f"{', '.join(names[:-1])} and {names[-1]}"
        why = (
            f"{'its' if one else 'their'} {doubt}"
            if doubt == UNSETTLED_NOTE
            else f"{'it is' if one else 'they are'} {doubt}"
        )
        said.append(f"Left out of this: {where}; {why}.")
        if doubt == UNSETTLED_NOTE:
            how = shlex.join(["fisher", *command[1:], "--recalibrate-bn"]) if command else "recalibrate_bn=True"
            said.append(f"To count {'it' if one else 'them'}: {how}")
    return said


def _nothing(measurements: Sequence[Measurement]) -> str:
    if len(found := networks(measurements)) > 1:
        names = [shorten(one_line(name), _NAME) for name in found[:4]]
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        return (
            f"The checkpoints are of {len(found)} networks ({', '.join(names)}{more}), whose traces have no trend: put "
            "each network's checkpoints into a folder of its own."
        )
    if any(each.trace and each.doubt for each in measurements):
        return "Nothing can be said about the training: every row with a trace is doubtful."
    return "No checkpoint gave a trace."


def asides(measurements: Sequence[Measurement]) -> list[str]:
    """What `trace_sentence` leaves out: rows as high as the peak, and detours of the run.

    Returns:
        Sentences, none where there is nothing to add.
    """
    found = trajectory_of(measurements)
    if found is None:
        return []
    words = _Words(measurements, found)
    return [text for text in (words.alike(), words.detours()) if text]


class _Words:
    """The numbers of a run as text, with the digits of the table."""

    def __init__(self, measurements: Sequence[Measurement], found: Trajectory) -> None:
        self.found = found
        self.measurements = measurements
        measured = [each.trace.true if each.trace else None for each in measurements]
        texts = number_texts(
            [each.value if each else None for each in measured],
            [each.standard_error if each else None for each in measured],
        )
        self._texts = [unbroken(text) for text in texts]

    def value(self, index: int) -> str:
        """A row's trace with its error."""
        return self._texts[index]

    def place(self, index: int) -> str:
        """Where a row is: the last or the first checkpoint, else the step, else the name."""
        if index == len(self.measurements) - 1:
            return "the last checkpoint"
        return self._step(index) if index else "the first checkpoint"

    def remaining(self) -> str:
        """The last value over the largest."""
        return unbroken(number_text(*self.found.remaining))

    def shape(self, *, whole: bool = True) -> str:
        """The sentence without its end; not `whole`: without rivals of the peak and detours either."""
        found = self.found
        first, peak, last = (self.value(i) for i in (found.first, found.peak, found.last))
        at = self.place(found.peak)
        rivals, detours = (self._rivals(), self._detours()) if whole else ("", "")
        if found.first == found.last:
            return f"The true trace is {peak}"
        if len({each.trace.true.value for each in self._counted() if each.trace}) == 1:
            return f"The true trace is {peak} at every checkpoint"
        if found.shape is Shape.BELL:
            kind = self._bell()
            return (
                f"The true trace rises from {first} to {peak} at {at}{rivals} and falls to {self.remaining()} "
                f"of it at {self.place(found.last)}: {kind}{detours}"
            )
        if found.shape is Shape.RISING:
            start = self.place(found.first)
            return f"The true trace is still rising at {at} ({peak}), from {first} at {start}: no bell here"
        if found.shape is Shape.RISEN and found.peak == found.last:
            return f"The true trace rises from {first} to {peak} at {at}{rivals}: no bell here"
        if found.shape is Shape.RISEN:
            return (
                f"The true trace rises from {first} to {peak} at {at}{rivals} and has not clearly fallen at "
                f"{self.place(found.last)} ({last}): no bell here"
            )
        if found.shape is Shape.FALLING:
            above = "" if found.peak == found.first else f", not clearly above {self.place(found.first)} ({first}),"
            return (
                f"The true trace is largest at {at} ({peak}){above} and falls to {self.remaining()} of it at "
                f"{self.place(found.last)}: no rise here{detours}"
            )
        ends = [i for i in (found.first, found.last) if i != found.peak]
        others = " and ".join(f"{self.place(i)} ({self.value(i)})" for i in ends)
        return f"The true trace shows no clear rise or fall: largest at {at} ({peak}), beside {others}"

    def _counted(self) -> list[Measurement]:
        """The rows that the sentence is about."""
        return [each for each, value in zip(self.measurements, self.found.fit, strict=True) if value is not None]

    def alike(self) -> str:
        """That other rows may be as high as the peak, "" if none may."""
        text = self._rivals().strip(" ()").removesuffix(" cannot be told apart")
        return f"The largest traces ({text}) cannot be told apart." if text else ""

    def detours(self) -> str:
        """Where the run leaves its shape, as a sentence."""
        if self.found.shape not in (Shape.BELL, Shape.FALLING):
            return ""
        text = self._detours().removeprefix(", but with ")
        return f"On the way there is {text}." if text else ""

    def _bell(self) -> str:
        return "a skewed bell" if self.found.is_skewed else "a bell"

    def _step(self, index: int) -> str:
        return place(self.measurements[index])

    def _rivals(self) -> str:
        """The rows that cannot be told from the peak, "" if there is none but itself."""
        rivals = list(self.found.rivals)
        if len(rivals) == 1:
            return ""
        known = [i for i, value in enumerate(self.found.fit) if value is not None]
        names = [self._step(i).removeprefix("step ") for i in rivals]
        if len(rivals) > 2 and known.index(rivals[-1]) - known.index(rivals[0]) == len(rivals) - 1:
            names = [f"{names[0]} to {names[-1]}"]
        elif len(rivals) > 4:
            names = [names[0], f"{len(rivals) - 2} others", names[-1]]
        return f" ({', '.join(names[:-1])}{' and ' if names[1:] else ''}{names[-1]} cannot be told apart)"

    def _detours(self) -> str:
        """Where the run leaves the shape of a bell."""
        words = []
        for pair, how in ((self.found.dip, "dip"), (self.found.rebound, "second rise")):
            if pair is not None:
                one, other = pair
                words.append(
                    f"a {how} from {self.value(one)} at {self._step(one)} to {self.value(other)} at {self._step(other)}"
                )
        return f", but with {' and '.join(words)}" if words else ""


def _empirical(measurements: Sequence[Measurement], found: Trajectory) -> str:
    """The clause about the empirical Fisher at the end, "" if its ratio is not known."""
    trace = measurements[found.last].trace
    if trace is None or trace.ratio is None or finite(trace.ratio.value) is None:
        return ""
    ratio = unbroken(number_text(trace.ratio.value, trace.ratio.standard_error))
    where = "" if found.first == found.last else " there"
    return f"; the empirical trace is {ratio} of the true one{where}"


def layer_shares(measurements: Sequence[Measurement]) -> str:
    """How the layers' largest shares of tr F moved from first to last, "" for one checkpoint or one layer.

    Source: Achille, Rovere and Soatto 2019 (arXiv:1711.08856), figure 5, where the layers' shares are what changes.
    """
    found = trajectory_of(measurements)
    if found is None or found.first == found.last:
        return ""
    places = list(dict.fromkeys((found.first, found.peak, found.last)))
    columns = [_shares(measurements[i]) for i in places]
    names = [name for name in columns[0] if all(name in each for each in columns)]
    if len(names) < 2:
        return ""
    largest = sorted(names, key=lambda name: -max(each[name] for each in columns))[:_LAYERS]
    texts = [
        f"{shorten(one_line(name), _NAME)} {unbroken(' → '.join(f'{each[name]:.2f}' for each in columns))}"
        for name in largest
    ]
    where = "first, at the peak, at last" if len(places) == 3 else "first and at last"
    return f"Share of tr F {where}: {', '.join(texts)}"


def _shares(measurement: Measurement) -> dict[str, float]:
    """Each layer's part of the true trace."""
    trace = measurement.trace
    if trace is None or not trace.true.value > 0:
        return {}
    return {layer.name: layer.true.value / trace.true.value for layer in trace.layers}
