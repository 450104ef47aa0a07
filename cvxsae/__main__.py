"""``python -m cvxsae``."""

from cvxsae.cli import main

if __name__ == "__main__":
    main()
