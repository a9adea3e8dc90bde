"""Figures of the command's own measurements: loss by compression, and losses along chains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def loss_by_cost(curve: Rows, critical: Rows, *, title: str, cost: str) -> Figure:
    """The rise of the loss above the original's by cost, each tolerance and its critical point.

    curve, critical: as `momos.slt.compressibility.schemes.rows` has them. cost: the axis' name.
    """
    figure = Figure(figsize=(7, 4.2))
    ax = figure.subplots()
    rows = sorted((row for row in curve if row["rise"] is not None), key=lambda row: row["cost"])
    ax.plot([row["cost"] for row in rows], [row["rise"] for row in rows], label="measured")
    for row in critical:
        ax.axhline(row["eps"], color="black", linewidth=1, linestyle="--")
        if row["cost"] is not None:
            rise = row["loss"] - row["init_loss"]
            ax.plot(
                [row["cost"]], [rise], "k*", markersize=12, label=f"critical, eps {row['eps']:g}"
            )
    top = max(row["eps"] for row in critical)
    ax.set_yscale("symlog", linthresh=min(row["eps"] for row in critical))
    ax.set(xlabel=cost, ylabel="Rise of the loss (nats)", title=title)
    ax.set_ylim(bottom=min(0.0, *(row["rise"] for row in rows), -top / 5))
    ax.legend()
    return figure


def losses_along_chains(traces: Rows, *, init_loss: float, title: str) -> Figure:
    """The loss at each draw of each chain, and at the model's own weights. Burn-in is below 0."""
    figure = Figure(figsize=(7, 4.2))
    ax = figure.subplots()
    for chain in dict.fromkeys(row["chain"] for row in traces):
        own = [row for row in traces if row["chain"] == chain]
        draws, losses = ([row[key] for row in own] for key in ("draw", "loss"))
        ax.plot(draws, np.array(losses), label=f"chain {chain}", marker="", linewidth=0.9)
    ax.axhline(init_loss, color="black", linewidth=1, linestyle="--", label="at the weights")
    ax.set(xlabel="Draw", ylabel="Loss of the batch (nats)", title=title)
    ax.legend()
    return figure
