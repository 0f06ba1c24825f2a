from pathlib import Path

import pytest

from trimtab.errors import UserError
from trimtab.report.markdown import replace_between

PAGE = """# Title

<!-- other -->

kept

<!-- end of other -->

<!-- table -->
old
<!-- end of table -->

Text after.
"""


def test_only_what_lies_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for _ in range(2):
        replace_between(page, "table", "new\n")
        assert page.read_text() == PAGE.replace("\nold\n", "\n\nnew\n\n")


def test_a_page_without_the_marks_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    unfinished = PAGE.replace("<!-- end of table -->", "")
    page.write_text(unfinished)
    for name in ("table", "figure"):
        with pytest.raises(UserError, match=f"no <!-- {name} -->"):
            replace_between(page, name, "new")
    assert page.read_text() == unfinished
