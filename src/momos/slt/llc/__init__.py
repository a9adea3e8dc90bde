"""The local learning coefficient and the trace of the Hessian."""
