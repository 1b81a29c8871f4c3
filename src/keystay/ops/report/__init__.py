"""The auditor's report: each client's key, where it is, how we know, what policy says."""

from keystay.ops.report.document import Report, build
from keystay.ops.report.examination import Examination, examine
from keystay.ops.report.sealing import seal, verify

__all__ = ["Examination", "Report", "build", "examine", "seal", "verify"]
