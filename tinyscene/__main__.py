"""`python -m tinyscene` and `torchrun -m tinyscene`."""

from tinyscene.cli import main

if __name__ == "__main__":
    main()
