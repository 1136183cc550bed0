"""Scipion finds the plugin, installs its engine and calls it."""

import ast
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")
pytest.importorskip("scipion", reason="scipion-app is not installed (extra 'scipion')")

import pwem
import pyworkflow
import pyworkflow.plugin
import scipion_cocofold
from PIL import Image
from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig
from scipion.install.plugin_funcs import PluginInfo
from scipion_cocofold import Plugin
from scipion_cocofold.constants import (
    COCOFOLD_COLABFOLD,
    COCOFOLD_ENV_ACTIVATION,
    COCOFOLD_HOME,
    COCOFOLD_WEIGHTS,
    ENGINE_INSTALLED,
    ENV_CREATED,
)

import cocofold

MODULE_FOLDER = Path(scipion_cocofold.__file__).parent
NAME = f"cocofold-{cocofold.__version__}"


@pytest.fixture
def domain():
    domain = pyworkflow.Config.getDomain()
    domain.getPlugins()
    return domain


@pytest.fixture
def software(domain, tmp_path, monkeypatch):
    """An empty software folder, Scipion's default for the engine's activation, no command to activate conda."""
    monkeypatch.setattr(pwem.Config, "EM_ROOT", str(tmp_path / "em"))
    monkeypatch.setitem(Plugin._vars, COCOFOLD_HOME, str(tmp_path / "em" / NAME))
    monkeypatch.setitem(Plugin._vars, COCOFOLD_ENV_ACTIVATION, Plugin.getDefaultEnvActivation())
    monkeypatch.setattr(Plugin, "_condaActivationCmd", "")
    return tmp_path / "em"


def installer(package="cocofold"):
    """Return Scipion's installer with one of the packages of this plugin."""
    module = pyworkflow.Config.getDomain().getPlugins()["scipion_cocofold"]
    info = PluginInfo(name="scipion_cocofold", plugin=module, remote=False)
    return info.getInstallenv(envArgs={"args": [package]})


def commands(environment):
    return [
        command._cmd for command in environment.getTarget("cocofold").getCommands() if isinstance(command._cmd, str)
    ]


def test_scipion_discovers_the_plugin(domain):
    module = domain.getPlugins()["scipion_cocofold"]
    assert module is scipion_cocofold
    assert type(module._pluginInstance) is Plugin
    assert issubclass(Plugin, pwem.Plugin)


def test_name_and_version(domain):
    assert scipion_cocofold._pluginInstance.getName() == "cocofold"
    assert scipion_cocofold.__version__ == cocofold.__version__ == version("scipion-em-cocofold")
    assert Plugin.getActiveVersion() == cocofold.__version__


def test_variables_are_listed_by_scipion(domain):
    variables = pyworkflow.VariablesRegistry.variables()
    assert variables[COCOFOLD_HOME].value == os.path.join(pwem.Config.EM_ROOT, NAME)
    assert variables[COCOFOLD_ENV_ACTIVATION].value == ""
    assert variables[COCOFOLD_ENV_ACTIVATION].default == f"conda activate {NAME}"
    assert {variables[name].source for name in (COCOFOLD_HOME, COCOFOLD_ENV_ACTIVATION)} == {"scipion_cocofold"}


def test_engine_package_gives_the_same_class(domain, monkeypatch):
    assert cocofold.Plugin is Plugin
    # `scipion installp --devel` looks for the plugin under the distribution's first package
    monkeypatch.setattr(pyworkflow.plugin.Domain, "_plugins", domain.getPlugins())
    monkeypatch.setattr(sys, "path", list(sys.path))
    instance = PluginInfo(pipName="scipion-em-cocofold", remote=False).getPluginClass()
    assert type(instance) is Plugin
    assert instance.getPath() == str(MODULE_FOLDER)


def test_all_that_is_cited_has_an_entry(domain):
    """What Cite shows and what the Methods name: without an author Scipion cannot show an entry."""
    folder = Path(scipion_cocofold.__file__).parent / "protocols"
    texts = " ".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    cited = set(re.findall(r"\b[a-z]+20\d\d\b", texts))
    assert {"cocofold2026", "jumper2021", "evans2021", "mirdita2022", "ahdritz2024", "eastman2017"} <= cited
    for key in cited:
        reference = scipion_cocofold._bibtex[key]
        assert {"author", "title", "journal", "year", "doi"} <= set(reference), key
    assert set(scipion_cocofold._bibtex) == cited
    assert scipion_cocofold._bibtex["cocofold2026"]["doi"] == "10.1038/s42004-026-01899-7"


def test_the_readme_tells_of_protocols_variables_templates_and_tests(domain):
    text = (MODULE_FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    scipion = text.split("## Inside Scipion")[1].split("\n## ")[0]
    labels = [kind._label for name, kind in domain.getProtocols().items() if name in scipion_cocofold.protocols.__all__]
    assert len(labels) == 8
    named = [f"| {label} |" for label in labels]
    named += [f"`{name}`" for name in Plugin._vars if name.startswith("COCOFOLD_")]
    named += [f"`cocofold-{path.name.partition('.')[0]}`" for path in MODULE_FOLDER.glob("templates/*.json.template")]
    assert len(named) == 8 + 4 + 3
    assert [one for one in [*named, "scipion3 tests scipion_cocofold"] if one not in scipion] == []
    for heading in (
        "Install",
        "How to read the verdict",
        "Commands",
        "What was verified",
        "Documentation",
        "References",
    ):
        assert f"\n## {heading}" in text


def test_references_and_logo(domain):
    for key in scipion_cocofold._references:
        reference = scipion_cocofold._bibtex[key]
        assert {"author", "title", "journal", "year"} <= set(reference)
    logo = MODULE_FOLDER / scipion_cocofold._logo
    assert logo.stat().st_size < 20_000
    with Image.open(logo) as image:
        assert image.format == "PNG"
        assert max(image.size) <= 256


def test_binaries_make_an_environment_and_install_the_engine(software, monkeypatch):
    monkeypatch.setattr(Plugin, "_condaActivationCmd", ". /opt/conda/etc/profile.d/conda.sh&&")
    environment = installer()
    assert environment.getPackage("cocofold") == [("cocofold", cocofold.__version__)]
    (create,) = (command for command in commands(environment) if "conda create" in command)
    (install,) = (command for command in commands(environment) if "pip install" in command)
    assert create.startswith(". /opt/conda/etc/profile.d/conda.sh&& conda create -y -n " + NAME)
    assert "python=3.11" in create
    assert install.startswith(f". /opt/conda/etc/profile.d/conda.sh&& conda activate {NAME} && python -m pip install")
    assert "[engine]" in install


@pytest.mark.parametrize("devel", [True, False])
def test_source_of_the_engine(devel, software, tmp_path, monkeypatch):
    folder = tmp_path / "a checkout"
    module = folder / "scipion-em-cocofold" / "scipion_cocofold" / "__init__.py"
    module.parent.mkdir(parents=True)
    if devel:
        (folder / "setup.py").touch()
    monkeypatch.setattr(scipion_cocofold, "__file__", str(module))
    (install,) = (command for command in commands(installer()) if "pip install" in command)
    words = shlex.split(install.split("pip install ")[1].split(" &&")[0])
    if devel:
        assert words == ["-e", f"{folder}[engine]"]
    else:
        assert words == [f"scipion-em-cocofold[engine]=={cocofold.__version__}"]


def fake_program(folder, name, text):
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\n" + text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_installer_runs_the_commands(software, tmp_path, monkeypatch):
    log = tmp_path / "log"
    for name in ("conda", "python"):
        fake_program(tmp_path / "bin", name, f'echo "{name} $* [$PYTHONPATH]" >> {shlex.quote(str(log))}\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/packages/of/scipion")
    software.mkdir()
    # Scipion fetches this archive of nothing for every package without sources
    (software / "void.tgz").write_text("void")
    assert Plugin.validateInstallation()

    installer().execute()

    create, activate, install = log.read_text().splitlines()
    assert create.startswith(f"conda create -y -n {NAME} ")
    assert activate == f"conda activate {NAME} []"
    assert install.startswith("python -m pip install ")
    assert "[engine]" in install
    assert install.endswith(" []")
    assert (software / NAME / ENV_CREATED).exists()
    assert (software / NAME / ENGINE_INSTALLED).exists()
    assert Plugin.validateInstallation() == []


def test_installation_stops_where_pip_fails(software, tmp_path, monkeypatch):
    fake_program(tmp_path / "bin", "conda", "exit 0\n")
    fake_program(tmp_path / "bin", "python", "exit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    software.mkdir()
    (software / "void.tgz").write_text("void")
    with pytest.raises(SystemExit):
        installer().execute()
    assert (software / NAME / ENV_CREATED).exists()
    assert any(ENGINE_INSTALLED in message for message in Plugin.validateInstallation())


def test_colabfold_on_request(software, tmp_path, monkeypatch):
    """With a stand-in for conda that makes a folder with a Python, which makes a command when it is told to install."""
    log = tmp_path / "log"
    python = f'#!/bin/sh\necho "python $*" >> {log}\ntouch env/bin/colabfold_batch\n'
    fake_program(
        tmp_path / "bin",
        "conda",
        f"mkdir -p env/bin; cat > env/bin/python <<'END'\n{python}END\nchmod +x env/bin/python\n",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    software.mkdir()
    (software / "void.tgz").write_text("void")
    monkeypatch.setitem(Plugin._vars, COCOFOLD_COLABFOLD, str(software / "colabfold-1.6.3" / "env"))
    assert Plugin.getColabFold() == ""
    installer("colabfold").execute()
    assert log.read_text() == "python -m pip install colabfold[alphafold]==1.6.3\n"
    assert Path(Plugin.getColabFold(), "bin", "colabfold_batch").is_file()
    assert not (software / NAME).exists()


def test_weights_on_request(software, tmp_path, monkeypatch):
    """Of an archive like AlphaFold's only the weights of AlphaFold-Multimer v3 are kept."""
    names = [f"params_model_{k}{kind}.npz" for k in range(1, 6) for kind in ("", "_ptm", "_multimer_v3")]
    archive = tmp_path / "alphafold_params_2022-12-06.tar"
    with tarfile.open(archive, "w") as tar:
        for name in [*names, "LICENSE"]:
            (tmp_path / name).write_text(name)
            tar.add(tmp_path / name, arcname=f"./{name}")
    monkeypatch.setattr(scipion_cocofold, "WEIGHTS_URL", archive.as_uri())
    software.mkdir()
    (software / "void.tgz").write_text("void")
    folder = software / "alphafold-multimer-weights-2022-12-06"
    monkeypatch.setitem(Plugin._vars, COCOFOLD_WEIGHTS, str(folder))
    assert Plugin.getWeights() == ""
    installer("alphafold-multimer-weights").execute()
    found = sorted(path.name for path in folder.iterdir() if path.suffix in (".npz", ".tar", ".part"))
    assert found == [f"params_model_{k}_multimer_v3.npz" for k in range(1, 6)]
    assert Plugin.getWeights() == str(folder)


def test_engine_does_not_share_a_python_that_is_too_old(monkeypatch):
    assert Plugin._engineSharesInterpreter()
    monkeypatch.setattr(scipion_cocofold, "PYTHON_NEEDED", (sys.version_info[0], sys.version_info[1] + 1))
    assert not Plugin._engineSharesInterpreter()


def test_environment_of_the_engine(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/packages/of/scipion")
    environ = Plugin.getEnviron()
    assert "PYTHONPATH" not in environ
    assert environ["PATH"] == os.environ["PATH"]
    assert os.environ["PYTHONPATH"] == "/packages/of/scipion"


@pytest.mark.parametrize("conda", ["", "eval $(conda shell.posix hook)&&", "eval $(conda shell.posix hook);"])
def test_program_in_an_environment_of_its_own(conda, software, monkeypatch):
    monkeypatch.setattr(Plugin, "_condaActivationCmd", conda)
    assert Plugin.getProgram("finetune").split() == f"{conda} conda activate {NAME} && cocofold finetune".split()
    monkeypatch.setitem(Plugin._vars, COCOFOLD_ENV_ACTIVATION, "module load cocofold && ")
    assert Plugin.getProgram("finetune").split() == f"{conda} module load cocofold && cocofold finetune".split()
    assert Plugin.validateInstallation() == []


def test_program_of_the_same_interpreter(software, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed (extra 'engine')")
    monkeypatch.setitem(Plugin._vars, COCOFOLD_ENV_ACTIVATION, "")
    assert Plugin.getProgram("finetune") == f"{shlex.quote(sys.executable)} -m cocofold finetune"
    assert Plugin.validateInstallation() == []
    answer = subprocess.run(
        Plugin.getProgram("--version"), shell=True, env=Plugin.getEnviron(), check=True, capture_output=True, text=True
    )
    assert answer.stdout.strip() == f"cocofold {cocofold.__version__}"


def test_program_from_the_path(software, tmp_path, monkeypatch):
    monkeypatch.setitem(Plugin._vars, COCOFOLD_ENV_ACTIVATION, "")
    monkeypatch.setattr(scipion_cocofold, "ENGINE_MODULES", ("cocofold", "a_module_that_is_not_there"))
    # Beside Scipion's own Python there is always the command that came with the plugin, without an engine
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert any(COCOFOLD_ENV_ACTIVATION in message for message in Plugin.validateInstallation())
    fake_program(tmp_path / "bin", "cocofold", "exit 0\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert Plugin.validateInstallation() == []
    assert Plugin.getProgram("finetune") == "cocofold finetune"


def test_protocols_conf_joins_the_views_of_scipion(domain, caplog):
    caplog.set_level("INFO")
    views = ProtocolTreeConfig.load(domain, str(Path(pwem.__file__).parent / "protocols.conf"))
    assert "Failed to read protocols.conf" not in caplog.text
    for view in ("Protocols SPA", "Model building"):
        (section,) = (section for section in views[view].childs if section.text == "Flexible fitting")
        ours = {entry.value for entry in section.childs if entry.value and entry.value.startswith("ProtCocofold")}
        assert ours == {name for name in domain.getProtocols() if name.startswith("ProtCocofold")} - {
            "ProtCocofoldBase"
        }


def test_modules_keep_to_python_3_8():
    files = [*MODULE_FOLDER.rglob("*.py"), Path(cocofold.__file__)]
    assert len(files) > 3
    for file in files:
        ast.parse(file.read_text(), filename=str(file), feature_version=(3, 8))


def test_import_leaves_the_engine_alone():
    program = (
        "import sys, scipion_cocofold\n"
        "engine = [m for m in sys.modules if m == 'torch' or m.startswith(('torch.', 'cocofold.'))]\n"
        "sys.exit(', '.join(engine) or 0)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
