"""Laws: parametric forms fitted to points, with certificates, intervals, held-out checks and allocations.

Nothing here imports models or training code, and nothing needs an accelerator. What is where:

- forms: `form` (what a form is), `forms` (those that there are)
- points: `table`, read by `reading`, `roles`, `guesses`, checked by `plausibility`; what they cost: `counting`, `costs`
- fit: `fit`, by `solver` out of `derivatives` and `descent`; `certify`
- uncertainty: `uncertainty` (the bootstrap) out of `resampling`, `intervals`, `noise`; `profile`
- checks: `holdout`
- answers: `allocation` out of `budget`; how they move with what N and C count: `conventions`; `suggest` out of `design`
  and `planning`
- Chinchilla's approaches: `approaches` out of `envelope`, `isoflop`, `slices`, `slice_noise`, `frontier`
- others' laws: `published`
- specifications that tests hold the rest against: `repetition` (epochs), `embedding` (parameters left out of N)
- all of it as one value: `report`, `report_json`; and back from its file: `saved`
"""
