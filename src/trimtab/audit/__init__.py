"""Know before you train: the data, the proxies and the landscape at the aligned model."""

from trimtab.audit.audit import AUDIT_FILE, audit
from trimtab.audit.settings import AuditSettings

__all__ = ["AUDIT_FILE", "AuditSettings", "audit"]
