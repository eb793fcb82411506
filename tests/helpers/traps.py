"""A folder whose modules must not be imported: each leaves a mark when it is, and raises."""

NAMES = (
    *("numpy", "random", "torchlift", "encodings", "linecache", "runpy", "signal", "os", "re", "json", "socket"),
    *("pickle", "tempfile", "onnxruntime", "ctypes", "sitecustomize", "usercustomize", "multiprocessing", "torch"),
)

_TRAP = """
with open({mark!r}, "a") as file:
    file.write({name!r} + " ")
raise ImportError("{name} of the current folder")
"""


def lay(folder):
    """Lay traps in ``folder``, by the names of modules that everything imports; returns the file of their marks."""
    mark = folder / "imported.txt"
    for name in NAMES:
        (folder / f"{name}.py").write_text(_TRAP.format(mark=str(mark), name=name))
    return mark
