r"""banger-troubleshooting: what goes wrong, and what to do

Description:
  Messages that a user is likely to meet, in the order of the pipe; `...` stands for what differs. Every program says
  on stderr what failed, to what, and mostly what helps. Three things help with all of them:

    $ banger doctor

  looks at what this host has, says what each lack costs, and how to mend it. `-v` after the name of a program
  makes it tell its steps and their times, `-vv` the programs that it runs, too. And the exit status tells of which
  kind a failure is: 64 is the command line, 65 and 66 the input, 69 something that is not there, 73 a name that is
  taken, 74 a disk, 75 something that may work later, 77 a right that is lacking, 70 a bug of banger, which we want to
  hear of.

Command lines:
  A word that is misspelt is answered with the nearest one; `banger --help` lists the commands, and each has a
  `--help`.

'stdin is empty: no manifest came':
  The stage before in the pipe failed, and what it said stands above; banger-pipeline(7) shows how to find out which.
  Or the program stands where nothing is piped into it: give it a manifest by name.

'the manifest has no '...' section':
  The stages stand in another order than fetch, flatten, mkext4, chown, inject, seed, publish, or one is left out. The
  hint names the one that makes the section.

''...' is ..., and ... is needed':
  The file is of another kind than the program takes: an ext4 image where a tree is wanted, or the other way round.
  Files are known by their content, never by their names.

''...' exists':
  Nothing is replaced that is not named: choose another name with `-o`, or say `--force`.

Getting images:
  References are those of docker; what has no registry is of Docker Hub. `bg-fetch --inspect REF` asks without
  fetching.

'cannot find the host '...'':
  There is no network, no name server, or no such host. Behind a proxy, set https_proxy. A mirror is named in
  banger-config(5); what was fetched once needs no network: `--offline`.

''...' is not a reference: ...':
  Names of repositories are lower case, and a file or a folder needs a word that says what it is, such as
  `rootfs:./root.tar` or `oci:./layout`: bg-fetch(1) lists them.

''...' is not in the cache':
  `--offline` or `--pull=never` was given, and this was never fetched under this name, or `banger cache prune` removed
  it.

'this user may not make user namespaces':
  Images of packages (`apt:`) are made in a user namespace, without root. The hint names the setting of this host that
  forbids it. An image of a registry needs none.

Making disks:

'a filesystem of ... is too small: this tree needs ... at least':
  Take the size that the hint names, or none: what fits is found out. To have room, say how much: `--free 2G`.

''...' is not the tree of the manifest: its digest differs':
  The tree was edited. That is fine, but give it by name and not by the manifest: `bg-mkext4 tree.jsonl`.

'no space left on device':
  Make room, or work in another folder with `-C`. Disks have holes and take less than their size. `banger cache list`
  tells what the cache takes, and `banger cache prune`, `banger image prune` and `banger vm prune` make room.

''...' is not marked clean':
  The file is the disk of a machine that runs or was killed, or an edit of it was interrupted. Stop the machine, or run
  `e2fsck -fy` on the file.

''...' is not installed':
  A program of this host is missing, and the hint has the package of Debian that it is in. e2fsprogs formats and
  checks disks, qemu-system-x86 boots them.

The store:

'the ... '...' exists already':
  Names are unique. `--replace` of bg-publish, `banger image pull` and `image register` puts the new image in the place
  of the old one at once, and so does `--force` of `banger kernel pull` and `kernel import`; machines keep what they
  have. A machine is deleted first. `banger build` replaces no image: end it with `--to seed`, and go on with
  `bg-publish --replace`.

'there is no image '...'':
  The hint has names like it. `banger image list` tells which are here, `banger image list --available` which can be
  had.

'the ... '...' is broken: ...':
  What it says is missing or wrong, mostly after a copy by hand. Nothing is fetched in its place: delete it, and pull
  it again.

Starting machines:

'no monitor can run this machine':
  The hint has a line for each monitor and what it lacks. QEMU runs everything, if slowly where KVM does not work;
  Firecracker needs KVM, and a tap or no network.

'a kernel does not boot with KVM here':
  A warning of `banger doctor`. This host is itself a VM, and what it runs in does not pass virtualisation on; or the
  user may not open /dev/kvm, which `sudo usermod -aG kvm $USER` and a new login mend. Machines run emulated, many times
  slower: allow more time with `--timeout`.

'the agent in the VM '...' did not answer within ... seconds':
  The machine runs and its agent does not. Look at the console, `banger vm logs NAME`: a kernel that panics says so at
  the end, and a system that waits says for what. A machine that is slow only needs `--timeout`. One whose start fails
  is removed, unless `--keep` is given.

'... cannot boot an image on ...: it lacks ...':
  The kernel was looked into, and a driver that the machine needs is neither in it nor in its initrd. `banger kernel
  show` tells what each has. Without `--kernel-ref` one that fits is taken.

''...' is not free for machines: this host has a route to '...'...':
  The addresses that taps get are in use where this host is. Choose others under [network] in banger-config(5).

In the machine:
  `banger vm exec NAME` goes through the agent, and needs no network, no sshd and no key; so it works when ssh does
  not.

  Words after the NAME are run as they are, without a shell: `banger vm exec NAME sh -c 'a | b'`. And `banger vm run`
  takes its image by `--image`: the first word is the command.

'sshd in the VM '...' did not answer in time; the VM runs on':
  The image has no sshd, or it does not start: `banger vm exec NAME` and look. `bg-inject --first-boot sshd` has the
  image install one.

Reporting a bug:
  A status of 70 with a traceback is one, as is a message that did not help. Add the command with `-vv`, all that it
  said, `banger --version` and `banger doctor`.

See also:
  banger(1) banger-doctor(1) banger-pipeline(7) banger-config(5) banger-vm-logs(1) banger-kernel-show(1)
"""
