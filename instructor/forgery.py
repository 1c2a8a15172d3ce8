"""What a reader should look at in a student's file: honest solutions have no use for it, forged ones do."""

import ast
from collections.abc import Iterator

# Modules, and what is in them, that see or change what belongs to the checks, or end or leave the process.
NAMES = (
    *("atexit", "builtins", "ctypes", "faulthandler", "forgery", "gc", "helpers.checks", "helpers.recipe", "importlib"),
    *("inspect", "instructor", "marshal", "mmap", "multiprocessing", "pdb", "pickle", "psutil", "pty", "resource"),
    *("runner", "runpy", "signal", "socket", "subprocess", "threading", "traceback", "unittest.mock"),
    *("os._exit", "os.abort", "os.dup", "os.dup2", "os.execl", "os.execv", "os.execve", "os.execvp", "os.fdopen"),
    *("os.fork", "os.forkpty", "os.kill", "os.killpg", "os.open", "os.pipe", "os.popen", "os.posix_spawn", "os.pwrite"),
    *("os.spawnl", "os.spawnv", "os.system", "os.write", "os.writev", "posix", "sys._current_frames", "sys._getframe"),
    *("sys.meta_path", "sys.modules", "sys.path", "sys.setprofile", "sys.settrace", "sys.stdout", "sys.stderr"),
)
BARE = ("__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals")
ATTRIBUTES = (
    *("__bases__", "__closure__", "__code__", "__globals__", "__mro__", "__subclasses__", "_exit", "_getframe"),
    *("cr_frame", "f_back", "f_builtins", "f_globals", "f_locals", "gi_frame", "tb_frame", "tb_next"),
)
MOST = 20


def find_forgery(source: bytes) -> list[str]:
    """A line for each thing in Python source that looks like forgery, with its line numbers; nothing is executed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"exercises.py cannot be read as Python ({type(error).__name__})"]
    found: dict[str, set[int]] = {}
    for line, what in list_suspects(tree):
        found.setdefault(what[:80], set()).add(line)
    notes = [
        f"exercises.py uses {what}, which looks like forgery: line {', '.join(map(str, sorted(lines)[:8]))}"
        for what, lines in sorted(found.items(), key=lambda item: min(item[1]))
    ]
    return notes[:MOST] + [f"and {len(notes) - MOST} more of that kind"] * (len(notes) > MOST)


def list_suspects(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each use, whatever the name was imported as."""
    nodes, imported = list(ast.walk(tree)), {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = "helpers." * getattr(node, "level", 0) + (getattr(node, "module", "") or "")
            for part in node.names:
                name = f"{module.rstrip('.')}.{part.name}".lstrip(".")
                top = name if part.asname or isinstance(node, ast.ImportFrom) else name.split(".")[0]
                imported[part.asname or part.name.split(".")[0]] = top
                if is_noted(name) or part.name == "*" and any(other.startswith(name[:-1]) for other in NAMES):
                    yield node.lineno, name
    for node in nodes:
        if isinstance(node, ast.Attribute):
            parts, inner = [], node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            name = ".".join([imported.get(inner.id, inner.id) if isinstance(inner, ast.Name) else "", *parts[::-1]])
            if node.attr in ATTRIBUTES or is_noted(name):
                yield node.lineno, name if is_noted(name) else f".{node.attr}"
        elif isinstance(node, ast.Name) and node.id in BARE:
            yield node.lineno, node.id
        elif isinstance(node, ast.Constant) and is_telling(node.value):
            yield node.lineno, repr(node.value)


def is_noted(name: str) -> bool:
    return any(name == noted or name.startswith(f"{noted}.") for noted in NAMES)


def is_telling(value: object) -> bool:
    """Whether a text names what `getattr` or `import_module` may be given."""
    return isinstance(value, str) and (value in ATTRIBUTES or ("." in value and is_noted(value)))
