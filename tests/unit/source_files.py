"""Files for the tests of sources, and the texts that a source reads from them."""

import json

from array_record.python import array_record_module

from hlm.data.pipeline import documents

NASTY = "naïve\r\nline 二行目\u2028x\n\n".encode() + bytes(range(256)) + b"\xff\xfe no end"
PLAIN = "Some text, naïve and long enough to be packed. ".encode() * 40
LINES = b"".join(json.dumps({"id": i, "text": "words " * i}).encode() + b"\n" for i in range(40))


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def texts(source):
    return [text for _, text in documents(source)]


def array_record(folder, records):
    path = str(folder / "a.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path
