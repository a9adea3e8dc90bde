"""Rows as stage `complexity` writes them along image trainings, for tests."""

import numpy as np
import pandas as pd


def kept_steps() -> pd.DataFrame:
    """One model, two methods, two seeds, two steps."""
    draws = np.random.default_rng(0)
    rows = [
        {"model": "mlp", "method": method, "seed": seed, "step": step, "rac": 2.0}
        for method in ("m0", "m1")
        for seed in (0, 1)
        for step in (10, 20)
    ]
    frame = pd.DataFrame(rows)
    names = (
        "init_loss", "val_accuracy", "llc_mean", "llc_corrected", "llc_quadratic", "llc_gradient",
        "hessian_trace",
    )  # fmt: skip
    for name in names:
        frame[name] = draws.normal(size=len(frame)) + frame.step
    frame.loc[0, "llc_corrected"] = np.nan
    frame["critical_n_q_eps0.1"] = draws.permutation(len(frame)) * 2 + 3
    return frame
