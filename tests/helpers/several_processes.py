"""What starts several processes of one run on this machine."""

import socket


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


def options_of_each(number: int) -> list[list[str]]:
    """Return the options by which so many processes find each other."""
    shared = ["--coordinator", f"localhost:{free_port()}"]
    shared += ["--num-processes", str(number)]
    return [[*shared, "--process-id", str(i)] for i in range(number)]
