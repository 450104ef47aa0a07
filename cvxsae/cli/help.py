"""``cvxsae --help``: verbs by job, a line each, on one screen."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

JOBS: dict[str, dict[str, str]] = {
    "First steps": {
        "doctor": "Try every engine here; versions, GPU, caches.",
        "example": "A trained SAE and data to try the other verbs on.",
        "demo": "A short story on real embeddings, in a minute.",
    },
    "Trained SAEs": {
        "audit": "Where the loss of one goes, and what to change.",
        "check": "What an optimum must satisfy, and which atoms fail.",
        "match": "What two dictionaries share; are they one optimum?",
        "compare": "Trained and learned dictionaries above their floors.",
    },
    "Dictionaries and floors": {
        "learn": "Learn a dictionary with exact codes.",
        "floor": "What no dictionary of a width can be below.",
        "path": "How many atoms pay as an atom's price rises.",
        "study": "Grids of certified cells: run, status, plot.",
    },
    "Convex problems": {
        "solve": "Solve one to a certified gap.",
        "certify": "Check arrays from a file, from scratch.",
        "crosscheck": "Solve twice, by cvxpy and by torch, and compare.",
    },
    "From rows to their distribution": {
        "population-floor": "What no dictionary reaches there, with confidence.",
        "population-gap": "What any dictionary can gain over a given one.",
        "population-dictionary": "As many atoms as the tokens pay for.",
    },
}
"""Every verb with its line, by what it is for; a test compares them with the verbs there are."""

HELP = "Convex optimization for sparse autoencoders; every answer has a certificate."

EPILOG = (
    "'cvxsae VERB --help' explains a verb; every verb takes --json. Exit codes: 0 certified, 1 not certified, "
    "2 bad input, 130 interrupted."
)


class Jobs(TyperGroup):
    """A command whose verbs are listed by job."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each job; verbs without one come last, so that none is hidden."""
        named = {verb for verbs in JOBS.values() for verb in verbs}
        others = {verb: self.commands[verb].get_short_help_str() for verb in self.commands if verb not in named}
        widest = max(map(len, self.commands))
        for job, verbs in {**JOBS, "Other": others}.items():
            rows = [(verb.ljust(widest), line) for verb, line in verbs.items() if verb in self.commands]
            if rows:
                formatter.write(f"\n{job}:\n")
                formatter.indent()
                formatter.write_dl(rows)
                formatter.dedent()
