"""The machine with Debian's kernel: booted once, by whichever test needs it first."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from kernel.machine import Machine, running, stock_image

# Of all that is done on it together.
LIMIT_S = 1500
BOOTED = pytest.StashKey[Machine]()


@pytest.fixture(scope="session")
def there(pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A machine that runs Debian's kernel."""
    image = stock_image()
    assert image is not None
    with running(image, limit_s=LIMIT_S) as machine:
        pytestconfig.stash[BOOTED] = machine
        yield machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With what fails, the last that the machine said."""
    report = yield
    machine = item.config.stash.get(BOOTED, None)
    if report.failed and machine is not None and "there" in getattr(item, "fixturenames", ()):
        report.sections.append(("the last that the machine said", machine.said))
    return report
