"""Every report that a test prints as JSON is checked against what is documented."""

from __future__ import annotations

import pytest

from cvxsae.cli.options import Answer
from cvxsae.cli.schemas import SCHEMAS
from cvxsae.data.storage import strict_json


@pytest.fixture(autouse=True)
def reports_are_as_documented(monkeypatch):
    show = Answer.show

    def checked(self, as_json, verb=""):
        if verb in SCHEMAS:
            report = strict_json({**self.report, "schema": SCHEMAS[verb].name, "notes": self.notes})
            assert SCHEMAS[verb].objections(report) == [], f"{verb}: say it in cvxsae/cli/schemas.py"
        show(self, as_json, verb)

    monkeypatch.setattr(Answer, "show", checked)
