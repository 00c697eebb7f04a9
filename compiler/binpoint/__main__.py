"""``python -m binpoint``: the command line."""

from binpoint.cli import main

if __name__ == "__main__":
    main()
