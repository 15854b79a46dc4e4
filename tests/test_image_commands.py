"""Images of the store listed, shown, renamed, deleted and pruned; what machines do meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from banger_tools import boot, errors, files
from banger_tools.store import images, records, renaming, vms
from banger_tools.vmm import life
from banger_tools.vmm import spec as specs
from tests import machines, stored_images, support
from tests.stored_images import disk, image, image_ok, listed, machine, publish, record, said, seed

# Telling


def test_list_tells_who_uses_an_image_and_which_is_elsewhere(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    publish(source, "web")
    image_ok("register", "--name=far", str(source))
    for name in ("one", "two"):
        machine(name, "web")
    rows = {row["name"]: row for row in json.loads(image_ok("list", "--json"))}
    assert (rows["web"]["vms"], rows["web"]["managed"]) == (["one", "two"], True)
    assert (rows["far"]["vms"], rows["far"]["managed"]) == ([], False)
    table = [line.split() for line in image_ok("list").splitlines()]
    assert table[0][-2:] == ["KERNEL", "VMS"]
    assert table[1][-3:] == ["elsewhere", "-", "0"]
    assert table[2][-1] == "2"


def test_show_tells_what_an_image_is(banger_home: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo hi"], "User": "app", "Env": ["A=1"]}
    source = {"requested": "docker.io/library/x:1", "kind": "registry", "digest": f"sha256:{'1' * 64}"}
    sections = {"image": {"architecture": "arm64", "config": config}, "source": source}
    folder = publish(disk(tmp_path), "web", work_seed=seed(tmp_path), **sections)
    machine("vm", "web")
    found = json.loads(image_ok("show", "--json", "web"))
    assert found["used_by"] == ["vm"]
    assert found["process"] == {**config, "WorkingDir": None}
    assert {name: one["size"] for name, one in found["disks"].items()} == {
        name: (folder / name).stat().st_size for name in ("rootfs.ext4", "work-seed.ext4")
    }
    text = image_ok("show", "web")
    for part in ("docker.io/library/x:1", "arm64", "/bin/sh -c 'echo hi'", "app", "used by", str(folder)):
        assert part in text
    assert json.loads(image_ok("show", "--manifest", "web")) == record(folder)


def test_image_that_has_no_seed_tells_why(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web", work_seed=None, work_seed_reason="the image has no /root")
    assert "none: the image has no /root" in image_ok("show", "web")


def test_show_refuses_two_forms_at_once_and_names_near_images(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "website")
    assert image("show", "--json", "--manifest", "website").returncode == 64
    done = image("show", "websit")
    assert done.returncode == 66
    assert "website" in done.stderr.decode()


# Deleting


def test_image_of_machines_is_not_deleted_and_they_are_named(banger_home: Path, tmp_path: Path) -> None:
    for name in ("unused", "web"):
        publish(disk(tmp_path / name), name)
    made = machine("vm", "web")
    done = image("delete", "unused", "web")
    assert done.returncode == 73
    assert "the image 'web' is used by VM 'vm'" in done.stderr.decode()
    assert listed(banger_home) == ["unused", "web"]
    assert image("delete", "--force", "unused", "web").returncode == 0
    assert listed(banger_home) == []
    stored_images.fsck(made / "root.ext4")
    assert said(made / "root.ext4") == "hello\n"


def test_several_are_deleted_or_none(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "one")
    assert image("delete", "one", "two").returncode == 66
    assert listed(banger_home) == ["one"]
    assert image("delete", "one", "one").returncode == 0
    assert listed(banger_home) == []


def test_broken_image_can_be_deleted(banger_home: Path, tmp_path: Path) -> None:
    (publish(disk(tmp_path), "web") / "image.json").write_text("{")
    assert image("delete", "web").returncode == 0
    assert listed(banger_home) == []


def test_machine_that_cannot_be_read_is_warned_of(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    (machine("vm", "web") / "image.json").write_text("{")
    done = image("delete", "web")
    assert done.returncode == 0
    assert "which image the VM 'vm' uses cannot be told" in done.stderr.decode()


def test_machine_of_a_file_uses_no_image_of_that_name(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(b"kernel")
    publish(disk(tmp_path, "web"), "web")
    folder = machine("vm", "web")
    about = json.loads((folder / "image.json").read_text())
    about["published"].update(path=str(tmp_path), rootfs=str(tmp_path / "web.ext4"))
    (folder / "image.json").write_text(json.dumps(about))
    assert image("delete", "web").returncode == 0


@pytest.mark.root
def test_image_of_another_user_is_denied(user: support.OrdinaryUser, tmp_path: Path) -> None:
    home = user.home / "banger"
    text = machines.manifest(disk(tmp_path))
    support.run_ok("bg-publish", "--no-kernel", "--name=web", stdin=text, env={"BANGER_HOME": str(home)})
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for words in (["delete", "web"], ["rename", "web", "db"], ["prune", "--force"]):
        done = user.run("banger", "image", *words, env={"BANGER_HOME": str(home)})
        assert done.returncode == 77, done.stderr.decode()
        assert "permission denied" in done.stderr.decode()
    assert listed(home) == ["web"]


# Meanwhile


def test_image_is_deleted_before_a_machine_is_made_of_it_or_after_never_in_between(
    banger_home: Path, tmp_path: Path
) -> None:
    folder = publish(disk(tmp_path), "web", work_seed=seed(tmp_path))
    found = images.find("web")
    argv = support.argv("banger", "image", "delete", "web")
    with images.unchanging(found):
        deletion = subprocess.Popen(argv, stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for us
            deletion.wait(1)
        assert said(folder / "rootfs.ext4") == "hello\n"
        made = _made_inside("vm", found)
    assert deletion.wait(60) == 73
    assert deletion.stderr is not None and b"is used by VM 'vm'" in deletion.stderr.read()
    deletion.stderr.close()
    assert said(made / "work.ext4") == "work\n"
    image_ok("delete", "--force", "web")
    with pytest.raises(records.Missing), images.unchanging(found):
        pass


def _made_inside(name: str, found: Any) -> Path:
    """Make a machine while the image's lock is shared already."""
    assert found.name == "web"
    return machine(name, "web")


def test_boot_shares_the_lock_while_it_makes_the_disks(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(disk(tmp_path), "web")
    found, spec = images.find("web"), SimpleNamespace(name="vm", id="1")
    options = SimpleNamespace(disk=None, work_disk=None, keep=False)

    def create(*_: object) -> None:
        with pytest.raises(errors.Retry), files.locked_folder(images.root() / "web", wait=0, what="web"):
            pass
        raise errors.Negative("seen")

    monkeypatch.setattr(life, "create", create)
    with pytest.raises(errors.Negative, match="seen"):
        boot._boot(cast("Any", spec), found, cast("Any", options))
    images.delete("web")
    with pytest.raises(records.Missing):
        boot._boot(cast("Any", spec), found, cast("Any", options))


def test_image_that_was_replaced_after_its_manifest_was_read_is_not_taken(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    found = images.find("web")
    publish(disk(tmp_path, "other", "other\n"), "web", "--replace")
    with pytest.raises(errors.Retry, match="was replaced meanwhile"), images.unchanging(found):
        pass


def test_who_replaces_an_image_waits_for_who_copies_from_it(banger_home: Path, tmp_path: Path) -> None:
    folder = publish(disk(tmp_path), "web", work_seed=seed(tmp_path))
    found = images.find("web")
    other = disk(tmp_path, "other", "other\n")
    text = json.dumps({**record(folder), "rootfs": {**record(folder)["rootfs"], "path": str(other)}, "work_seed": None})
    argv = support.argv("bg-publish", "--no-kernel", "--replace", "--name=web")
    with images.unchanging(found):
        publication = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert publication.stdin is not None
        publication.stdin.write(text.encode())
        publication.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            publication.wait(1)
        made = _made_inside("vm", found)
    assert publication.wait(60) == 0
    assert (said(made / "root.ext4"), said(made / "work.ext4")) == ("hello\n", "work\n")
    assert said(folder / "rootfs.ext4") == "other\n"
    assert not (folder / "work-seed.ext4").exists()
    assert listed(banger_home) == ["web"]


KEEPER = """
import sys
from tests import stored_images
made = gone = 0
for number in range(int(sys.argv[1])):
    try:
        stored_images.machine(f"vm{number}", "web")
        made += 1
    except Exception as error:
        assert type(error).__name__ in ("Missing", "Retry"), repr(error)
        gone += 1
print(made, gone)
"""


def test_machines_made_while_the_image_comes_and_goes_are_whole(banger_home: Path, tmp_path: Path) -> None:
    source, work = disk(tmp_path), seed(tmp_path)
    publish(source, "web", work_seed=work)
    argv = [sys.executable, "-c", KEEPER, "60"]
    with subprocess.Popen(argv, cwd=support.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as maker:
        while maker.poll() is None:
            images.delete("web", force=True)
            publish(source, "web", work_seed=work)
        assert maker.stdout is not None and maker.stderr is not None
        assert maker.returncode == 0, maker.stderr.read().decode()
        made, gone = map(int, maker.stdout.read().split())
    assert made + gone == 60
    assert len(vms.listed()) == made
    for name in vms.listed():
        for found, text in (("root.ext4", "hello\n"), ("work.ext4", "work\n")):
            assert said(vms.folder(name) / found) == text
    assert listed(banger_home) == ["web"]


# Renaming


def test_machines_of_a_renamed_image_refer_to_its_new_name(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    made = machine("vm", "web")
    inode = (images.root() / "web" / "rootfs.ext4").stat().st_ino
    image_ok("rename", "web", "base")
    assert listed(banger_home) == ["base"]
    folder = images.root() / "base"
    assert (folder / "rootfs.ext4").stat().st_ino == inode
    about = record(folder)
    assert (about["name"], about["published"]["rootfs"]) == ("base", str(folder / "rootfs.ext4"))
    assert vms.load("vm").spec.image == "base"
    assert json.loads((made / "image.json").read_text())["published"] == about["published"]
    done = image("delete", "base")
    assert done.returncode == 73 and b"is used by VM 'vm'" in done.stderr
    assert image("verify", "base").returncode == 0


def test_broken_machine_keeps_no_image_from_being_renamed(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    (machine("broken", "web") / "vm.json").write_text("{")
    machine("whole", "web")
    done = image("rename", "web", "base")
    assert done.returncode == 0
    assert "the VM 'broken' still refers to the image by its old name" in done.stderr.decode()
    assert vms.load("whole").spec.image == "base"


def test_name_that_is_taken_or_none_is_refused_and_nothing_is_renamed(banger_home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(disk(tmp_path / name, text=name), name)
    for words, status in ((["one", "two"], 73), (["one", "No"], 64), (["three", "four"], 66), (["one", "one"], 73)):
        assert image("rename", *words).returncode == status
    assert listed(banger_home) == ["one", "two"]
    assert said(images.root() / "two" / "rootfs.ext4") == "two"


def test_name_taken_at_the_last_moment_is_kept(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(disk(tmp_path), "one")
    real = images.users

    def users(name: str) -> list[str]:
        publish(disk(tmp_path, "late", "late\n"), "two")
        return real(name)

    monkeypatch.setattr(images, "users", users)
    with pytest.raises(errors.CannotCreate, match="exists already"):
        renaming.rename("one", "two")
    assert listed(banger_home) == ["one", "two"]
    assert said(images.root() / "two" / "rootfs.ext4") == "late\n"


# Pruning


def test_images_that_no_machine_was_made_from_are_pruned(banger_home: Path, tmp_path: Path) -> None:
    for name in ("used", "unused", "broken"):
        publish(disk(tmp_path / name), name)
    machine("vm", "used")
    (images.root() / "broken" / "image.json").write_text("{")
    left = images.root() / "x.staging-0123"
    left.mkdir()
    (left / "rootfs.ext4").write_bytes(b"x" * 8192)
    preview = json.loads(image_ok("prune", "--dry-run", "--json"))
    assert (preview["images"], preview["leftovers"]) == (["unused"], [str(left)])
    assert len(listed(banger_home)) == 4
    assert image("prune").returncode == 64
    done = json.loads(image_ok("prune", "--force", "--json"))
    assert {**done, "dry_run": True} == preview
    assert done["freed"] > 8192
    assert listed(banger_home) == ["broken", "used"]


def test_image_that_is_used_by_now_stays(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from banger_tools.commands import image_prune

    publish(disk(tmp_path), "web")
    assert image_prune.prunable() == ["web"]
    monkeypatch.setattr(image_prune, "prunable", lambda: [machine("vm", "web") and "web"])
    assert image_prune.main(["--force", "--json"]) == 0
    printed = capsys.readouterr()
    assert (json.loads(printed.out)["images"], "is used by VM 'vm': it stays" in printed.err) == ([], True)
    assert listed(banger_home) == ["web"]
    assert (vms.folder("vm") / specs.RECORD).exists()
