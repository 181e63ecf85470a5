"""JSON lines: their texts and prompts come through, and bad lines are named or left out."""

import gzip
import json
import lzma
import pickle

import pytest

from hlm.data.source import JsonLines, Record, Streamed
from tests.unit.source_files import texts, write


@pytest.mark.parametrize(
    ("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")]
)
def test_json_lines(tmp_path, pack, ending):
    wanted = ["short", "ünï\n二\u2028" * 30, "", "end of the file " * 9]
    lines = "\n\n".join(
        json.dumps({"id": i, "body": text}, ensure_ascii=bool(i % 2))
        for i, text in enumerate(wanted)
    )
    path = write(tmp_path, "a.jsonl" + ending, pack(lines.replace("\n\n", "\n\r\n", 1).encode()))
    source = JsonLines((path,), field="body", piece=40)
    records = source.open()
    assert texts(source) == [text.encode() for text in wanted]
    assert all(len(record.text) <= 40 for record in records)
    assert len(records) > 10
    assert records.name(len(records) - 1) == f"{path}:7"
    assert list(pickle.loads(pickle.dumps(records))) == list(records)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "line 2 is not JSON"),
        (b'{"body": "a"}', r"line 2 has no text field 'text'; its fields are \['body'\]"),
        (b'{"text": 3}', "line 2 has no text field"),
        (b"[1]", "it is a list"),
        (b'{"text": "\\ud800"}', "line 2: field 'text' has half"),
        (b'{"text": "\xff"}', "line 2 is not JSON"),
        (b'{"text": "a"}{"text": "b"}', "line 2 is not JSON"),
        (b"\0" * 100, "line 2 is not JSON"),
        (b"[" * 8000, "line 2 is not JSON"),
        (b'{"text": null}', "it is a NoneType"),
        ('{"text": "a"}'.encode("utf-16-be"), "line 2 is not JSON"),
        (b'{"text": "\xed\xa0\x80"}', "line 2: field 'text' has half"),
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, message):
    path = write(tmp_path, "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        JsonLines((path,)).open()
    records = JsonLines((path,), bad_lines=None).open()  # found when drawn
    assert records[0] == Record(b"fine", True)
    with pytest.raises(ValueError, match=message):
        records[1]
    with pytest.warns(UserWarning, match=f"1 left out, the first: .*{message}"):
        records = JsonLines((path,), bad_lines=1).open()
    assert list(records) == [Record(b"fine", True)]


def test_bad_lines_beyond_those_allowed(tmp_path):
    lines = [b'{"text": "%d"}' % i for i in range(9)]
    lines[2], lines[5], lines[7] = b"oops", b'{"text": "cut of', b"{}"
    path = write(tmp_path, "a.jsonl", b"\n".join(lines))
    with pytest.raises(
        ValueError,
        match=r"bad_lines is 2, and there are more: the first is .*a\.jsonl line 3 is not "
        r"JSON.*line 8",
    ):
        JsonLines((path,), bad_lines=2).open()
    with pytest.warns(UserWarning, match="3 left out"):
        found = texts(JsonLines((path,), bad_lines=3))
    assert found == [b"0", b"1", b"3", b"4", b"6", b"8"]
    with pytest.raises(ValueError, match="no lines but blank and bad ones"):
        JsonLines((write(tmp_path, "b.jsonl", b"x\n\n"),), bad_lines=9).open()
    with pytest.raises(ValueError, match="bad_lines is -1"):
        JsonLines((path,), bad_lines=-1)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_end_as_they_like(tmp_path, end):
    path = write(
        tmp_path,
        "a.jsonl",
        end.join(['{"text": "a"}', "", "  ", '{"text": "b\\r\\n"}', ""]).encode(),
    )
    assert texts(JsonLines((path,))) == [b"a", b"b\r\n"]
    assert texts(JsonLines((path,), bad_lines=None)) == [b"a", b"b\r\n"]


@pytest.mark.parametrize("other", [b"\xed\xa0\x80", b"\\ud800", b"\xed\xa0\xbd\xed\xb8\x80"])
@pytest.mark.parametrize("piece", [7, 1000])
def test_other_fields_may_hold_halves_of_pairs(tmp_path, other, piece):
    line = b'{"%b": "%b", "text": "%b", "z": "%b"}\n' % (other, other, b"words of it " * 9, other)
    path = write(tmp_path, "a.jsonl", b'{"text": "one"}\n' + line * 2)
    source = JsonLines((path,), piece=piece)
    assert texts(source) == texts(Streamed(source)) == [b"one", *[b"words of it " * 9] * 2]


# --- prompts


@pytest.mark.parametrize("piece", [1, 3, 5, 8, 40, 1000])
def test_pieces_carry_their_share_of_the_prompt(tmp_path, piece):
    rows = [
        ("", "text"),
        ("question? ", "answer"),
        ("q" * 20, ""),
        ("", ""),
        ("é漢", "字"),
        ("a b c " * 9, "d " * 30),
    ]
    lines = "\n".join(json.dumps({"q": q, "a": a}) for q, a in rows)
    source = JsonLines((write(tmp_path, "a.jsonl", lines.encode()),), "a", piece, prompt="q")
    assert texts(source) == [(q + a).encode() for q, a in rows]
    learned, document = [], b""
    for record in source.open():
        assert 0 <= record.prompt <= len(record.text) <= piece
        assert not (document and record.prompt), (
            "a prompt goes on only behind a piece that is all prompt"
        )
        document += record.text[record.prompt :]
        if record.complete:
            learned.append(document)
            document = b""
    assert learned == [a.encode() for _, a in rows]
    assert list(pickle.loads(pickle.dumps(source.open()))) == list(source.open())


def test_a_line_without_its_prompt_is_bad(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n')
    with pytest.raises(
        ValueError, match=r"line 1 has no text field 'q'; its fields are \['text'\]"
    ):
        JsonLines((path,), prompt="q").open()
    with pytest.raises(ValueError, match="prompt is 'text', and so is field"):
        JsonLines((path,), prompt="text")
