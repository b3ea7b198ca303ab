"""The examples in the docstrings of public names run, and print what they say."""

import doctest

import geomkit


def failures(name, value):
    """What the examples of one name print that they should not."""
    said, runner = [], doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder(recurse=False).find(value, name, globs={}):
        runner.run(example, out=said.append)
    return said


def test_examples_run():
    public = {name: getattr(geomkit, name) for name in geomkit.__all__}
    with_examples = {name: value for name, value in public.items() if ">>>" in (value.__doc__ or "")}
    assert {name: said for name, value in with_examples.items() if (said := failures(name, value))} == {}
    assert {"cosine_stats", "distribute", "moments", "spectrum"} <= set(with_examples)


def test_an_example_that_says_something_else_is_found():
    def wrong():
        """Return nothing.

        >>> 1 + 1
        3
        """

    assert "Expected:\n    3\nGot:\n    2" in "".join(failures("wrong", wrong))
