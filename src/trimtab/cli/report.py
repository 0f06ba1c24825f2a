"""trimtab report."""

from __future__ import annotations

from trimtab.cli.options import Folder


def report(folder: Folder) -> None:
    """Draw figures and a page from points, an audit or both."""
    from rich.console import Console

    from trimtab.audit.result import AUDIT_FILE
    from trimtab.cli.progress import findings_table, plain, print_page
    from trimtab.report import write_report
    from trimtab.report.audit_page import write_audit_page
    from trimtab.results.store import POINTS_FILE

    console = Console()
    if (folder / AUDIT_FILE).exists():
        page = write_audit_page(folder)
        if not (folder / POINTS_FILE).exists():
            print_page(page, console)
            return
    files = write_report(folder)
    if files.findings:
        console.print(findings_table(files.findings))
    for figure in files.figures:
        if figure.suffix == ".png":
            console.print(plain(str(figure)), highlight=False, soft_wrap=True)
    print_page(files.page, console)
