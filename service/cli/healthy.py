"""Whether this machine answers a request with 200: `python -m service.cli.healthy 3000 /readyz`.

It is what the images' HEALTHCHECK runs, every few seconds: so it imports next to nothing. Ends with 0 or 1.
"""

import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT = 5.0  # seconds


def main(port: int, path: str) -> str | None:
    """Why it is not healthy, None if it is."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"no answer: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"status {status}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
