"""Which of our modules may import which: the arrows of the layout, read from the source."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "experiments", "kernels", "models", "scaling")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


@functools.cache
def imports(module):
    """Every module that a file imports anywhere, inside functions too, by full name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def ours(module):
    return {name for name in imports(module) if name.split(".")[0] in PACKAGES}


def inside(name, *parents):
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def closure(module):
    seen, ahead = set(), [module]
    while ahead:
        for name in ours(ahead.pop()) - seen:
            seen.add(name)
            ahead += [name] if name in MODULES else []
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module):
    package, names = module.split(".")[0], ours(module)
    if package == "kernels":
        allowed = ["kernels"]
    elif package == "models":
        allowed = ["models", "kernels"]
    elif package == "analysis":
        allowed = ["analysis", *(f"scaling.{n}" for n in ("records", "laws", "accounting", "errors", "storage"))]
    elif inside(module, "scaling.run", "scaling.branches", "scaling.tuning"):
        allowed = ["scaling", "models"]
    elif package == "scaling":
        allowed = ["scaling", "models.config"]
    else:
        allowed = PACKAGES
    assert {name for name in names if not inside(name, *allowed)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_tensorflow_is_for_tasks_alone(module):
    heavy = {name for name in imports(module) if inside(name, "tensorflow", "seqio", "tensorflow_text", "t5")}
    assert not heavy or module == "scaling.data.tasks"


@pytest.mark.parametrize("module", [m for m in MODULES if inside(m, "scaling.laws", "scaling.records")])
def test_laws_and_records_reach_neither_models_nor_training(module):
    reached = {name for name in closure(module) if not inside(name, "scaling.laws")}
    assert reached <= {"scaling", "scaling.errors", "scaling.storage", "scaling.records", "scaling.accounting"}


def test_configs_and_what_plans_need_no_jax():
    for module in ("models.config", "scaling.config", "scaling.storage", "scaling.environment", "experiments.cli"):
        direct = {name for name in imports(module) if inside(name, "jax", "flax", "optax", "orbax", "grain")}
        assert direct == set()
