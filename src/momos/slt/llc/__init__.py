"""The local learning coefficient by Langevin sampling, beside what curvature alone predicts."""

from momos.slt.llc.estimator import LLC, LlcDiverged, estimate_llc, suggested_lr
from momos.slt.llc.hessian import HessianTrace, hessian_trace
from momos.slt.llc.quadratic import Quadratic, predict
from momos.slt.llc.spectrum import Spectrum, hessian_spectrum

__all__ = [
    "LLC",
    "HessianTrace",
    "LlcDiverged",
    "Quadratic",
    "Spectrum",
    "estimate_llc",
    "hessian_spectrum",
    "hessian_trace",
    "predict",
    "suggested_lr",
]
