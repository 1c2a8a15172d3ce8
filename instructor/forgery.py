"""What a reader should look at in a student's file: honest solutions have no use for it, forged ones do."""

import ast
from collections.abc import Iterable

# Modules and attributes that see or change what belongs to the checks, or end or leave the process. Where honest code
# has the same name for something else, the module belongs to it: `modules` is a method of every model.
NOTED = set(
    """
    POLICIES apply_policy
    atexit builtins ctypes faulthandler forgery gc checks recipe importlib inspect instructor marshal mmap
    multiprocessing pdb pickle posix psutil pty resource runner runpy signal socket subprocess threading traceback mock
    _exit abort dup dup2 execl execv execve execvp fdopen fork forkpty kill killpg pipe popen posix_spawn pwrite spawnl
    spawnv system write writev _current_frames _getframe meta_path setprofile settrace stdout stderr __bases__
    __closure__ __code__ __globals__ __mro__ __subclasses__ cr_frame f_back f_builtins f_globals f_locals gi_frame
    tb_frame tb_next os.open os.* sys.modules sys.path sys.*
    """.split()  # noqa: SIM905
)
BARE = {"__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals"}


def find_forgery(source: bytes) -> list[str]:
    """A line for each thing in Python source that forgery needs, with its line numbers; nothing is executed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"exercises.py cannot be read as Python ({type(error).__name__})"]
    lines: dict[str, set[int]] = {}
    for node in ast.walk(tree):
        for name in NOTED.union(BARE).intersection(list_names(node)):
            lines.setdefault(name, set()).add(node.lineno)
    return [
        f"exercises.py uses {name}, for which right solutions have no use:"
        f" line {', '.join(map(str, sorted(found)[:8]))}"
        for name, found in sorted(lines.items(), key=lambda item: min(item[1]))
    ]


def list_names(node: ast.AST) -> Iterable[str]:
    """What a node names: parts of a module, an attribute, a builtin, or a text that `getattr` may be given."""
    match node:
        case ast.Import(names=parts):
            return [name for part in parts for name in part.name.split(".")]
        case ast.ImportFrom(module=module, names=parts):
            names = [f"{module}.{part.name}" for part in parts]
            return [*names, *(each for name in names for each in name.split("."))]
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return {f"{owner}.{name}", name} - BARE
        case ast.Attribute(attr=name):
            return {name} - BARE
        case ast.Name(id=name):
            return {name} & BARE
        case ast.Constant(value=str(name)) if "." in name or name.startswith("_"):
            return [name, *name.split(".")]
    return ()
