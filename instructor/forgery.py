"""What a reader should look at in a student's file: honest solutions have no use for it, forged ones do."""

import ast
from collections.abc import Iterator

# Modules, and what is in them, that see or change what belongs to the checks, or end or leave the process.
NAMES = (
    "atexit", "builtins", "ctypes", "faulthandler", "forgery", "gc", "helpers.checks", "helpers.recipe",
    "importlib", "inspect", "instructor", "marshal", "mmap", "multiprocessing", "pdb", "pickle", "posix", "psutil",
    "pty", "resource", "runner", "runpy", "signal", "socket", "subprocess", "threading", "traceback",
    "unittest.mock", "os._exit", "os.abort", "os.dup", "os.dup2", "os.execl", "os.execv", "os.execve", "os.execvp",
    "os.fdopen", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.open", "os.pipe", "os.popen",
    "os.posix_spawn", "os.pwrite", "os.spawnl", "os.spawnv", "os.system", "os.write", "os.writev",
    "sys._current_frames", "sys._getframe", "sys.meta_path", "sys.modules", "sys.path", "sys.setprofile",
    "sys.settrace", "sys.stdout", "sys.stderr",
)  # fmt: skip
BARE = ("__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals")
ATTRIBUTES = (
    "__bases__", "__closure__", "__code__", "__globals__", "__mro__", "__subclasses__", "_exit", "_getframe",
    "cr_frame", "f_back", "f_builtins", "f_globals", "f_locals", "gi_frame", "tb_frame", "tb_next",
)  # fmt: skip
MOST = 20


def find_forgery(source: bytes) -> list[str]:
    """A line for each thing in Python source that looks like forgery, with its line numbers; nothing is executed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"exercises.py cannot be read as Python ({type(error).__name__})"]
    lines: dict[str, set[int]] = {}
    for line, what in list_suspects(tree):
        lines.setdefault(what[:80], set()).add(line)
    notes = [
        f"exercises.py uses {what}, which looks like forgery: line {', '.join(map(str, sorted(lines[what])[:8]))}"
        for what in sorted(lines, key=lambda what: min(lines[what]))
    ]
    return notes[:MOST] + [f"and {len(notes) - MOST} more of that kind"] * (len(notes) > MOST)


def list_suspects(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each use, whatever the name was imported as."""
    nodes, imported = list(ast.walk(tree)), {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for part in node.names:
                top = part.name.split(".")[0]
                imported[part.asname or top] = part.name if part.asname else top
                if is_noted(part.name):
                    yield node.lineno, part.name
        elif isinstance(node, ast.ImportFrom):
            module = "helpers." * node.level + (node.module or "")
            for part in node.names:
                name = f"{module.rstrip('.')}.{part.name}"
                imported[part.asname or part.name] = name
                if is_noted(name) or part.name == "*" and any(other.startswith(name[:-1]) for other in NAMES):
                    yield node.lineno, name
        elif isinstance(node, ast.Name) and node.id in BARE:
            yield node.lineno, node.id
        elif isinstance(node, ast.Constant) and is_telling(node.value):
            yield node.lineno, repr(node.value)
    for node in nodes:  # Now all names of imports are known.
        if isinstance(node, ast.Attribute):
            name = spell(node, imported)
            if is_noted(name):
                yield node.lineno, name
            elif node.attr in ATTRIBUTES:
                yield node.lineno, f".{node.attr}"


def spell(node: ast.expr, imported: dict[str, str]) -> str:
    """The dotted name of an expression, as far as it is one."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(imported.get(node.id, node.id) if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def is_noted(name: str) -> bool:
    return any(name == noted or name.startswith(f"{noted}.") for noted in NAMES)


def is_telling(value: object) -> bool:
    """Whether a text names what `getattr` or `import_module` may be given."""
    return isinstance(value, str) and (value in ATTRIBUTES or ("." in value and is_noted(value)))
