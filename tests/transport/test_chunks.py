"""The line before a chunk's data, by the size of the whole chunk."""

from service.transport.chunks import size_line


def test_the_line_before_the_data_of_a_chunk() -> None:
    lines = {len(b"%x\r\n" % data) + data + 2: b"%x\r\n" % data for data in range(1, 5_000)}
    assert all(size_line(size) == lines.get(size, b"") for size in range(5_000))
    assert [size for size in range(5_000) if size not in lines] == [0, 1, 2, 3, 4, 5, 21, 262, 4103]
