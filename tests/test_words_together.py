"""Options that do not go together, or mean nothing: refused by name by every program, before it touches anything."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

KERNEL_FILE = "kernel:./vmlinuz"
WRONG = [
    ("fetch", "--initrd=x debian", "--initrd goes with kernel:FILE only"),
    ("fetch", "--modules=x kernel:guest", "--modules goes with kernel:FILE only"),
    ("fetch", f"--inspect {KERNEL_FILE}", "--inspect is not for kernels"),
    ("fetch", f"--list-tags {KERNEL_FILE}", "--list-tags is not for kernels"),
    ("fetch", "--initrd=x kernel:./", "'.' is a folder: its own initrd and modules are taken"),
    ("fetch", "oci::latest", "the path is missing"),
    ("fetch", "docker-archive::latest", "the path is missing"),
    ("fetch", "--pull=often debian", "--pull: 'often' is none of"),
    ("fetch", "--pull=always --offline debian", "--pull=always and --offline contradict"),
    ("fetch", "--creds=a:b --creds-stdin debian", "--creds and --creds-stdin contradict"),
    ("fetch", "--creds=nobody debian", "--creds: credentials are written USER:PASSWORD"),
    ("fetch", "--key-file=key debian", "--key-file: there is no --cert-file"),
    ("fetch", "--stall=0 debian", "--stall: '0' is not a number of seconds"),
    ("fetch", "--plain-http=a/b debian", "--plain-http: 'a/b' is not a host"),
    ("fetch", "--platform=linux/ debian", "--platform: 'linux/' is not a platform"),
    ("flatten", "--path --tar=- layer.tar", "--path and --tar=- both want stdout"),
    ("flatten", "--limit-entries=-1 layer.tar", "--limit-entries: '-1' is not a positive number"),
    ("flatten", "--exclude=/ layer.tar", "--exclude: a pattern of nothing but slashes"),
    ("mkext4", "--label=seventeen-letters tree", "--label: 'seventeen-letters' has more than 16 bytes"),
    ("mkext4", "--uuid=1234 tree", "--uuid: '1234' is not a UUID"),
    ("mkext4", "--inodes=many tree", "--inodes: 'many' is not a number"),
    ("mkext4", "--features=^extent tree", "--features: 'extent' cannot be left out"),
    ("mkext4", "--features=64bit,^64bit tree", "--features: '64bit' is both asked for and left out"),
    ("mkext4", "--features=fast tree", "--features: 'fast' is not a feature of ext4 that is known here"),
    ("mkext4", "--size=1G --minimal tree", "--size and --minimal exclude each other"),
    ("chown", "--set=/x=1 image", "--set: '/x=1' is not PATH=UID:GID[:MODE]"),
    ("chown", "--set=/x=0:4294967296 image", "--set: the id 4294967296 is out of range"),
    ("chown", "--set=/x=0:0:100644 image", "--set: "),
    ("chown", "--map-uid=0:1 image", "--map-uid: '0:1' is not A:B:N"),
    ("chown", "--map-uid=0:0:0 image", "--map-uid: the range '0:0:0' is empty"),
    ("chown", "--map-uid=0:9:5 --map-uid=4:20:1 image", "overlaps with another one"),
    ("inject", "--hostname=a..b image", "--hostname: 'a..b' is not a host name"),
    ("inject", "--file=x image", "--file: 'x' is not HOST:GUEST"),
    ("inject", "--file=a:/x:0644:1:4294967296 image", "--file: owner 1:4294967296 is out of range"),
    ("inject", "--first-boot=later image", "--first-boot: 'later' is not one of"),
    ("inject", "--first-boot=sshd --no-agent image", "--first-boot needs the guest's own files"),
    ("seed", "--home=root image", "--home: 'root' is not an absolute path"),
    ("seed", "--require --optional image", "--require and --optional exclude each other"),
    ("publish", "--bundle=x.zip image", "--bundle: 'x.zip' does not end in .tar.zst"),
    ("publish", "--url=https://x.example/x image", "--url goes with --bundle only"),
    ("publish", "--bundle=x.tar.zst --url=ftp://x.example image", "is no URL of the web"),
    ("publish", "--tar=- --path image", "--path and --tar=- both want stdout"),
    ("publish", "--no-kernel --kernel-ref=x image", "exclude each other"),
    ("publish", "--initrd=x image", "--initrd goes with --kernel-file only"),
    ("publish", "--tar=x.tar --replace image", "--replace goes with --name where --tar is given"),
    ("publish", "-f image", "-f goes with"),
    ("publish", "--tar=x --raw=x image", "x' is to be two outputs"),
    ("commands.build", "", "missing argument: INPUT"),
    ("commands.build", "--from=nowhere x", "--from: 'nowhere' is none of"),
    ("commands.build", "--to=flatten --name=x oci:/nowhere", "--name is for the stage 'publish'"),
    ("commands.image_export", "--format=zip x x.zip", "--format: 'zip' is none of"),
    ("commands.image_export", "x out.img2", "cannot be told by its name"),
    ("commands.image_export", "--format=bundle x -", "cannot go to stdout"),
    ("commands.image_export", "--json x -", "--json and '-' both want stdout"),
    ("commands.image_show", "--json --manifest x", "--json and --manifest exclude each other"),
    ("commands.image_register", "--kernel-ref=a --kernel=b x.ext4", "exclude each other"),
    ("commands.image_register", "--initrd=a x.ext4", "--initrd goes with --kernel only"),
    ("commands.image_pull", "--kernel=a --kernel-ref=b x", "exclude each other"),
    ("commands.image_pull", "--initrd=a x", "--initrd goes with --kernel only"),
    ("commands.kernel_import", "--kernel=x", "--name is missing"),
    ("commands.kernel_import", "--name=x --from=x --initrd=y", "--initrd goes with --kernel only"),
    ("commands.kernel_pull", "./vmlinuz", "'./vmlinuz' is a path"),
    ("commands.cache_prune", "--keep=ever", "--keep: 'ever' is neither a time nor a size"),
    ("commands.ssh_config", "--install --uninstall", "--install and --uninstall exclude each other"),
    ("commands.ssh_config", "--file=x", "--file goes with --install and --uninstall only"),
    ("commands.vm_stop", "", "missing argument: NAME"),
    ("commands.vm_stop", "--all x", "--all and NAME exclude each other"),
    ("commands.vm_start", "--wait=ready x", "--wait: 'ready' is none of"),
    ("commands.vm_logs", "--lines=few x", "--lines: 'few' is no number"),
    ("commands.vm_set", "x", "nothing is to be changed"),
    ("commands.vm_set", "--nat=maybe x", "--nat: 'maybe' is none of on, off"),
    ("commands.vm_create", "--pull=always --offline", "--pull=always and --offline exclude each other"),
    ("boot", "--image=x --command=x", "--command goes with --run only"),
    ("boot", "--image=x --run --command='", "--command: no closing quotation"),
    ("boot", "--image=x --nat", "--nat goes with --net tap only"),
    ("boot", "--image=x --exec=x --wait=none", "--exec needs the agent"),
    ("boot", "--image=x --limit-iops=0", "--limit-iops: '0' is no number of operations"),
    ("boot", "--image=x --publish=70000:1", "has a port that is not 1 to 65535"),
    ("boot", "--image=x --publish=80:1 --publish=80:2", "--publish: port 80 is given twice"),
    ("boot", "--image=x --timeout=soon", "--timeout: 'soon' is not a number of seconds"),
]


@pytest.mark.parametrize(("module", "words", "said"), WRONG, ids=[f"{module} {words}" for module, words, _ in WRONG])
def test_words_that_make_no_sense_are_refused_by_name(
    module: str,
    words: str,
    said: str,
    banger_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(f"banger_tools.{module}").main(words.split()) == 64
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err.splitlines()[0]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"lease", "oci-layout", "index.json"}
