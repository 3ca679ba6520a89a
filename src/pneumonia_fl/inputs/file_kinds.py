"""Recognise files that are not what their name says: a Git LFS pointer, a login page, an archive, text."""

_LINES = (
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    ),
    (b"/annex/objects/", "a git-annex pointer, not the file itself; fetch it with `git annex get`"),
    (b"../.git/annex/", "a git-annex pointer, not the file itself; fetch it with `git annex get`"),
)
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")
_MAGIC = (
    (b"\x1f\x8b", "packed (gzip); unpack it first"),
    (b"BZh", "packed (bzip2); unpack it first"),
    (b"\xfd7zXZ\x00", "packed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed (zstd); unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, MATLAB)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3", "an SQLite database"),
)
HEAD = 1024
"""So many first bytes of a file tell what it is."""


def foreign(head: bytes) -> str:
    """Return in words what a file with these first bytes is, with what to do about it; empty where it is not known.

    What this program reads itself, zip files and images apart, is not known here.
    """
    if not head:
        return "empty; download or copy it again"
    for start, words in (*_LINES, *_MAGIC):
        if head.startswith(start):
            return words
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[128:132] == b"DICM":
        return "a DICOM file; export the image as PNG"
    return _of_text(head[:HEAD]) if is_text(head[:HEAD]) else ""


def is_text(head: bytes) -> bool:
    """Return True when these bytes can be text: no control characters but line breaks and tabs."""
    return all(byte in b"\t\n\r\f" or byte >= 32 for byte in head)


def _of_text(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_PAGES) or b"<html" in start:
        return "a web page, perhaps of a login or an error; sign in and download the file itself"
    if start.startswith(b"<"):
        return "XML, perhaps the error message of a server; download it again"
    if start.startswith((b"{", b"[")):
        return "JSON, perhaps the error message of a server; download it again"
    return "text"
