"""`python -m vecstore.cli`, for where the script `vecstore` is not on the path."""

from vecstore.cli import main

if __name__ == "__main__":
    main()
