"""``cvxsae --help``: the verbs on one screen, grouped by job, with one line each."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from cvxsae.cli.errors import one_sentence_usage

JOBS: dict[str, dict[str, str]] = {
    "First steps": {
        "doctor": "Check that everything works on this machine.",
        "example": "Write a small SAE and data for the other verbs.",
        "demo": "See it work on real embeddings, in a minute.",
    },
    "Trained SAEs": {
        "audit": "Find what causes an SAE's loss and what to change.",
        "check": "Test optimality conditions and find failing atoms.",
        "match": "Compare the atoms and losses of two dictionaries.",
        "compare": "Compare SAEs, dictionaries and floors over widths.",
    },
    "Dictionaries and floors": {
        "learn": "Learn a dictionary with exact codes.",
        "floor": "Prove lower bounds for dictionaries of a width.",
        "path": "Find how many atoms remain as their price rises.",
        "study": "Run, inspect and plot a grid of computations.",
    },
    "Convex problems": {
        "solve": "Solve a convex problem to a certified gap.",
        "certify": "Check a solution in a file from scratch.",
        "crosscheck": "Solve with cvxpy and with torch, and compare.",
    },
    "Statements about the distribution of tokens": {
        "population-floor": "Bound every dictionary's loss, with confidence.",
        "population-gap": "Bound the gain over a dictionary, with confidence.",
        "population-dictionary": "Learn how many atoms the tokens justify.",
    },
}
"""Every verb with its line, grouped by job; a test compares them with the registered verbs."""

HELP = "Convex optimization for sparse autoencoders; every answer has a certificate."

EPILOG = (
    "Run 'cvxsae VERB --help' for the options of a verb; every verb takes --json. Exit codes: 0 certified, "
    "1 not certified, 2 bad input, 130 interrupted."
)


class Jobs(TyperGroup):
    """A command that lists its verbs by job, and refuses command lines in one sentence."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the options before the verb."""
        with one_sentence_usage():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the verb with its options, and run it."""
        with one_sentence_usage(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each job; verbs without a job come last, so that none is hidden."""
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
