"""Nothing is larger than a person holds in mind: past these sizes a module or a function is drawn anew."""

from __future__ import annotations

from tests.house.tree import modules_of_tests, package_modules, told

MODULE_LINES_MAX = 400
TEST_MODULE_LINES_MAX = 600  # claims of one kind stand better in one file than in two
FUNCTION_LINES_MAX = 60


def test_no_module_of_the_package_is_longer_than_a_sitting() -> None:
    long = [f"{m.path} has {len(m.lines)} lines" for m in package_modules() if len(m.lines) > MODULE_LINES_MAX]
    assert not long, told(long)


def test_no_test_module_is_longer_than_its_own_bound() -> None:
    long = [f"{m.path} has {len(m.lines)} lines" for m in modules_of_tests() if len(m.lines) > TEST_MODULE_LINES_MAX]
    assert not long, told(long)


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for module in (*package_modules(), *modules_of_tests()):
        for function in module.functions():
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                long.append(f"{module.path}:{function.lineno} {function.name} has {lines} lines")
    assert not long, told(long)
