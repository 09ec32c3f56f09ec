"""How a process that holds a server ends. Its source stands before that of the process's `main`, and both are executed as they are."""

import os
import sys


def run(main):
    """Call `main` and end the process, with the cause on standard error. A SystemExit is one that people can mend."""
    status = 0
    try:
        main()
    except SystemExit as error:
        status = 1
        print(f"CAUSE {error}", file=sys.stderr, flush=True)
    except BaseException as error:
        status = 1
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(status)  # the server's threads would keep the process
