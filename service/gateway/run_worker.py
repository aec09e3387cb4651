"""Runs `service.gateway.worker` as a program that lies in no folder Python looks into, as in a Bento."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from service.gateway.worker import main

    main(sys.argv[1:])
