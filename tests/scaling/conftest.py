import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, data_dir):
    """The store in which the tiny study ran from beginning to end, in one process and one go."""
    import tiny  # here, for it imports jax, which the tests of data and laws do without

    root = tmp_path_factory.mktemp("undisturbed")
    tiny.execute(tiny.study(), root, data_dir)
    return root
