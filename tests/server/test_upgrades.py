"""`http_cases` has what a client gets that offers an upgrade."""

from service.server.upgrades import head_without_upgrade


def test_the_head_without_its_offer() -> None:
    headers = [
        (b"host", b"x"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"h2c"),
        (b"content-length", b"3"),
        (b"upgrade", b"x"),
    ]
    assert head_without_upgrade(b"POST", b"/a?b", "1.1", headers) == (
        b"POST /a?b HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\ncontent-length: 3\r\n\r\n"
    )
