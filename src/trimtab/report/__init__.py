"""Reports: measured points in, figures and a page out."""

from trimtab.analysis.findings import Finding, findings
from trimtab.analysis.verdicts import FindingVerdict
from trimtab.report.page import Report, write_report

__all__ = ["Finding", "FindingVerdict", "Report", "findings", "write_report"]
