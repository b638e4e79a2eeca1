"""Laws: parametric forms fitted to points, with certificates, intervals, held-out checks and allocations.

Nothing here imports models or training code, and nothing needs an accelerator. What is where:

- forms: `form` (what a form is), `forms` (those that there are), `repetition` and `embedding` (columns of some)
- points: `table`, read by `reading`, `roles`, `guesses`, checked by `plausibility`; `conventions` of N and C
- fit: `fit`, by `solver` out of `derivatives` and `descent`; `certify`
- uncertainty: `uncertainty` (the bootstrap) out of `resampling`, `intervals`, `noise`; `profile`
- checks: `holdout`
- answers: `allocation` out of `budget`; `suggest` out of `design` and `planning`
- Chinchilla's approaches: `approaches` out of `envelope`, `isoflop`, `slices`, `slice_noise`, `frontier`
- others' laws: `published`
- all of it as one value: `report`, `report_json`; and back from its file: `saved`
"""
