"""What differs from the other tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def every_report_is_valid() -> None:
    """Nothing of a report depends on what is tested here, and to validate hundreds takes longer than to make them."""
