"""What `make sweep` shows while it runs: a table of stages, and the logs of those that fail."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import repro
import worker
from repro import clock, group
from rich.console import Console
from rich.live import Live
from rich.table import Table

SHOWN = 20  # last lines of a failed stage's log


class Watch(repro.Progress):
    """The state of a sweep: a table on a terminal, elsewhere a line every few stages."""

    def __init__(self, board: repro.Board) -> None:
        super().__init__(board)
        self.live = (
            Live(console=Console(), get_renderable=self.table, refresh_per_second=1)
            if self.watched
            else None
        )

    def __enter__(self) -> "Watch":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def table(self) -> Table:
        """A row for each group of stages that take about as long."""
        with self.board.changed:
            states = {
                "waiting": self.board.waiting,
                "running": self.board.running,
                "done": self.board.done,
                "failed": self.board.failed,
            }
            counts = {name: Counter(map(group, stages)) for name, stages in states.items()}
            means = {
                name: sum(seconds) / len(seconds) for name, seconds in self.board.seconds.items()
            }
        table = Table("stages", *states, "each", caption=self.line())
        for name in sorted(set[str]().union(*counts.values())):
            numbers = [str(count[name] or "") for count in counts.values()]
            table.add_row(name, *numbers, clock(means[name]) if name in means else "")
        return table

    def show(self) -> None:
        if not self.live:
            super().show()

    def tell(self, text: str) -> None:
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            super().tell(text)


def tell_failures(progress: repro.Progress, failed: Iterable[str], lines: list[str]) -> None:
    """Show the end of each failed stage's log.

    lines: what the worker printed, kept as the log of a stage that it did not come to.
    """
    for stage in failed:
        path = worker.Logs(Path.cwd()).path(stage)
        own = path.read_text(errors="replace").splitlines() if path.is_file() else []
        if not own:
            path.write_text("\n".join(lines))
        title = f"\n{stage} failed; its log: {path.relative_to(Path.cwd())}"
        progress.tell("\n".join([title, *(own or lines)[-SHOWN:], ""]))
