"""The local learning coefficient by Langevin sampling, and the Hessian's trace as its control."""

from momos.slt.llc.estimator import LLC, LlcDiverged, estimate_llc, suggested_lr
from momos.slt.llc.hessian import HessianTrace, hessian_trace

__all__ = ["LLC", "HessianTrace", "LlcDiverged", "estimate_llc", "hessian_trace", "suggested_lr"]
