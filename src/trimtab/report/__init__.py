"""Reports: measured points in, figures and a page out."""

from trimtab.report.comparison import Verdict
from trimtab.report.findings import Finding, findings
from trimtab.report.page import Report, write_report

__all__ = ["Finding", "Report", "Verdict", "findings", "write_report"]
