"""Laws: parametric forms fitted to points, with certificates, intervals, held-out checks and allocations.

Nothing here imports models or training code, and nothing needs an accelerator.
"""
