import subprocess
import sys


def test_reading_shards_loads_neither_tensorflow_nor_seqio():
    code = (
        "import sys, scaling.data.loader, scaling.data.shards, scaling.data.heldout, scaling.data.prepare;"
        "print([name for name in ('tensorflow', 'seqio', 'tensorflow_text') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_counting_tokens_loads_neither_grain_nor_jax():
    code = (
        "import sys, scaling.data.timeline, scaling.data.shards;"
        "print([name for name in ('grain', 'jax', 'orbax') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_preparing_without_seqio_is_an_error_that_says_what_to_install(tmp_path):
    (tmp_path / "seqio.py").write_text("raise ModuleNotFoundError(\"No module named 'seqio'\", name='seqio')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from scaling.errors import UserError\n"
        "try:\n    import scaling.data.tasks\n"
        "except UserError as error:\n    print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip().endswith("needs seqio, which is not installed: install windtunnel[data]")
