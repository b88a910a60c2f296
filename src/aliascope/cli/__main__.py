"""`python -m aliascope.cli` is `aliascope`."""

from aliascope.cli import main

if __name__ == "__main__":
    main()
