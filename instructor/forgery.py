"""What a reader should check in a student's file: everything for which correct solutions have no use.

For modules, and for the contents of `os` and `sys`, the usual names are listed, as the others are too many.
"""

import ast
import re
from collections.abc import Iterable

USUAL = set(
    """
    IPython __future__ abc accelerate collections contextlib copy dataclasses datasets datetime enum evaluate functools
    glob hashlib helpers huggingface_hub itertools json logging math matplotlib numpy optuna os pandas pathlib pprint
    platform random re safetensors scipy seaborn shutil sklearn statistics string sys tempfile textwrap time tokenizers
    torch tqdm transformers typing typing_extensions warnings
    """.split()  # noqa: SIM905
)
OF_SYSTEM = {
    "os": {"cpu_count", "environ", "getcwd", "getenv", "listdir", "makedirs", "path", "sep"},
    "sys": {"argv", "executable", "maxsize", "platform", "version", "version_info"},
}
# Names that give access to the checks, or end or leave the process, however they are reached: modules (also through
# others that import them), the course's own parts, functions of `os`, and frames.
NOTED = set(
    """
    POLICIES apply_policy checks forgery recipe runner
    atexit builtins ctypes ctypeslib faulthandler gc importlib inspect marshal mmap mock multiprocessing os pdb pickle
    posix psutil pty resource runpy signal socket subprocess sys threading traceback
    abort dup dup2 execl execv execve execvp fdopen fork forkpty kill killpg pipe popen posix_spawn pwrite spawnl spawnv
    stderr stdout system write writev meta_path setprofile settrace currentframe cr_frame f_back f_builtins f_globals
    f_locals gi_frame tb_frame tb_next cpp_extension get_field
    read_pickle
    """.split()  # noqa: SIM905
)
PLAIN = {"__class__", "__doc__", "__index_level_0__", "__init__", "__len__", "__main__", "__name__", "__version__"}
MOST = 40  # notes
BARE = {"__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals", "locals", "open", "vars"}


def find_forgery(source: bytes) -> list[str]:
    """One note for each thing in Python source that forgery needs, with its line numbers; nothing is executed."""
    try:
        nodes = [*ast.walk(ast.parse(source))]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"exercises.py cannot be read as Python ({type(error).__name__})"]
    lines: dict[str, set[int]] = {}
    for node in nodes:
        for name in list_odd(node):
            lines.setdefault(name, set()).add(node.lineno)
    notes = [
        f"exercises.py uses {name:.80}, for which right solutions have no use:"
        f" line {', '.join(map(str, sorted(found)[:8]))}"
        for name, found in sorted(lines.items(), key=lambda item: min(item[1]))
    ]
    return notes[:MOST] + [f"exercises.py uses {len(notes) - MOST:,} more such things"] * (len(notes) > MOST)


def list_odd(node: ast.AST) -> Iterable[str]:
    """The unusual names in a node."""
    match node:
        case ast.Import(names=parts):
            renamed = [f"{part.name} as {part.asname}" for part in parts if part.asname and part.name in OF_SYSTEM]
            return renamed + [odd for part in parts for odd in _look_at(part.name)]
        case ast.ImportFrom(module=module, names=parts, level=level):
            module = f"helpers.{module or ''}".rstrip(".") if level else module
            return [odd for part in parts for odd in _look_at(f"{module}.{part.name}")]
        case ast.Attribute(value=ast.Name(id="os" | "sys" as owner), attr=name):
            return _look_at(f"{owner}.{name}")
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return ()
        case ast.Attribute(attr=name):
            return filter(_is_noted, [name])
        case ast.MatchClass(kwd_attrs=names):
            return filter(_is_noted, names)
        case ast.Name(id=name):
            return {name} & BARE
        case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]):
            return filter(_is_noted, [name.value]) if isinstance(name, ast.Constant) else ["getattr"]
        case ast.Constant(value=str(text)) if re.fullmatch(r"(?!_[^_])[\w.]+", text):  # f"{model}_bitfit" is common.
            return filter(_is_noted, text.split("."))
    return ()


def _look_at(path: str) -> list[str]:
    """The unusual names in a module's path, or in the path of something in it."""
    top, *parts = path.split(".")
    if top not in USUAL:
        return [top]
    odd = [part for part in parts if _is_noted(part)]
    if not odd and parts and (parts[0] not in OF_SYSTEM.get(top, parts) or (top, parts[-1]) == ("helpers", "*")):
        odd = [path]
    return odd


def _is_noted(name: str) -> bool:
    return name in NOTED or name not in PLAIN and re.match("_+[^_]", str(name)) is not None
