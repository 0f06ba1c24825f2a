"""Facts about the table of mutations: it speaks of the code as it is."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, PACKAGE, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_the_line_to_change_is_there_and_once(mutation: Mutation) -> None:
    assert (ROOT / PACKAGE / mutation.file).read_text().count(mutation.line) == 1
    assert all((ROOT / test).exists() for test in mutation.tests.split(" -k ")[0].split())
