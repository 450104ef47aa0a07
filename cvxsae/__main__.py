"""``python -m cvxsae``."""

from cvxsae.cli.main import main

if __name__ == "__main__":
    main()
