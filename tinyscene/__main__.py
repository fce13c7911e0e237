"""`python -m tinyscene` and `torchrun -m tinyscene`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, where a user's own numpy.py or yaml.py may lie
    from tinyscene.cli import main

    main()
