"""Operators are compared with formulas, whose products are exact on processors without VNNI as well."""

from collections.abc import Iterator

import pytest
import sessions


@pytest.fixture(autouse=True, scope="module")
def exact_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sessions.CONFIG, "mcd.products", "exact")
        yield
