"""The auditor's report: each client's key, where it is, how we know, what policy says."""

from keystay.report.document import Report, build
from keystay.report.examination import Examination, examine
from keystay.report.sealing import seal, verify

__all__ = ["Examination", "Report", "build", "examine", "seal", "verify"]
