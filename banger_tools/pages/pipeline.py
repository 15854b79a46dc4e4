r"""banger-pipeline: a tutorial of the pipe, stage by stage

Description:
  From the name of an image to a machine that runs it, by hand: every stage once, a look at the file that it leaves, a
  change between two stages, a Makefile, and what to do when a stage fails. It takes a quarter of an hour, a network,
  a host of Debian or Ubuntu for the kernel, and the programs jq(1), make(1), e2fsck(8) and debugfs(8). Lines that begin
  with `$` are typed into a bash(1); what is shown below one is what it says, with `...` for what differs from host to
  host, and without the version that debugfs(8) tells each time.

  An ordinary user's PATH lacks the folder of the last two:

    $ PATH=$PATH:/usr/sbin:/sbin

The whole pipe:
  An image becomes bootable in seven steps. Each is a program that reads a JSON manifest on its stdin, does one thing,
  and prints the manifest with one more section:

    $ mkdir tour && cd tour
    $ bg-fetch debian:bookworm-slim | bg-flatten | bg-mkext4 | bg-chown | bg-inject | bg-seed >whole.json
    $ jq -r '.history[].tool' whole.json
    bg-fetch
    bg-flatten
    bg-mkext4
    bg-chown
    bg-inject
    bg-seed

  `banger build --to seed debian:bookworm-slim` runs the same pipe; without `--to` it publishes, too, and leaves the
  artifacts here. `banger image pull debian:bookworm-slim` publishes and keeps none. With `-v` they show the pipe that
  they run, ready to be pasted. Neither knows anything that the programs do not: what follows holds for them, too.

  The files lie in the folder where the pipe ran, or in that of `-C`:

    $ ls
    rootfs.ext4
    tree.jsonl
    whole.json
    work-seed.ext4
    $ rm *

Fetch:
  Layers are fetched, checked against their digests, and decompressed once, into the cache; nothing is extracted. The
  manifest says what was asked for, what it turned out to be, and where each layer is:

    $ bg-fetch debian:bookworm-slim >fetched.json
    $ jq -r '.source.requested' fetched.json
    debian:bookworm-slim
    $ jq '.layers | length' fetched.json
    1
    $ tar -tf "$(jq -r '.layers[0].path' fetched.json)" >contents

  A source may as well be a folder or a tar that is here (`rootfs:FILE`), packages (`apt:bookworm`), or what docker or
  podman have: bg-fetch(1) lists them. `bg-fetch --inspect debian:bookworm-slim` looks, and fetches no layer.

Flatten:
  The layers become one tree, as a container runtime would see it. It is a text file, one JSON object a line, the
  first for the whole; banger-tree(5) describes it. grep, jq and an editor are the tools to look at it:

    $ bg-flatten fetched.json >flat.json
    $ head -n 1 tree.jsonl | jq -c '[.tree, .entries > 0]'
    [1,true]
    $ jq -r 'select(.type == "file") | [.size, .path] | @tsv' tree.jsonl | sort -n | tail -n 3
    $ jq -r 'select(.mode // "" | test("^[1-7]...$")) | .path' tree.jsonl
    $ grep -c '"type":"symlink"' tree.jsonl

  The first jq shows the version, the second lists the largest files, the third everything set-user-id, set-group-id or
  sticky.

Make the disk:
  mke2fs(8) lays out an empty filesystem and bg-mkext4(1) fills it, owners, devices, capabilities and all, without
  root. The size fits; `--size`, `--free` and `--minimal` choose another one. Any program that knows ext4 can judge
  the result:

    $ bg-mkext4 flat.json >disk.json
    $ e2fsck -fn rootfs.ext4
    $ debugfs -R 'ls -l /etc' rootfs.ext4
    $ jq .rootfs.size disk.json

Owners:
  bg-chown(1) has nothing to do after bg-mkext4(1), and says so with `-v`. It is there for disks that another program
  made, and for what you want otherwise:

    $ bg-chown --check disk.json; echo $?
    0
    $ bg-chown --set=/etc/passwd=0:0:0600 -o owned.ext4 disk.json >owned.json
    $ debugfs -R 'stat /etc/passwd' owned.ext4 | grep -o 'Mode:  0600'
    Mode:  0600

The guest's side:
  The agent, which answers the host, its units and perhaps keys go into the image, and the files are listed. What is
  in the image stays what it was, so this may be run again with other options:

    $ bg-inject --hostname tour owned.json >guest.json
    $ jq -r '.guest.files[]' guest.json | grep vsock-agent
    /usr/local/bin/banger-vsock-agent
    $ debugfs -R 'cat /etc/hostname' owned.ext4
    tour

The home:
  Each machine has its own disk for /root, and starts with a copy of the image's:

    $ bg-seed guest.json >seeded.json
    $ jq -r '.work_seed.home' seeded.json
    /root

  An image whose /root is empty, as that of alpine, has no seed: bg-seed(1) warns, the pipe goes on, and /root of its
  machines begins empty.

Publish and boot:
  Until here all files are yours. bg-publish(1) puts copies of them and a kernel into the store, whole or not at all;
  from then on the image has a name, and machines can be made of it:

    $ bg-publish --name tour seeded.json >published.json
    $ banger image list --names
    tour
    $ bg-boot --image tour --rm --exec 'echo the machine is up'
    the machine is up

Change something between two stages:
  What stands between two stages is a file, so anything may be put between them. Leave out what matches:

    $ bg-flatten --exclude='/usr/share/doc' -o slim.jsonl fetched.json | bg-mkext4 -o slim.ext4 >slim.json

  The same with jq, which can do more. An edited tree is given by name, for it is no longer the one of the manifest:

    $ jq -c 'select(.path // "" | startswith("/usr/share/doc") | not)' tree.jsonl >edited.jsonl
    $ bg-mkext4 -o edited.ext4 edited.jsonl >edited.json
    $ jq -c 'if .path == "/etc/passwd" then .mode = "0600" else . end' tree.jsonl >strict.jsonl

  Put a layer of your own on top, which is a folder or a tar:

    $ mkdir -p overlay/etc && echo hello >overlay/etc/motd
    $ bg-flatten --layer overlay -o more.jsonl fetched.json | bg-mkext4 -o more.ext4 >more.json
    $ debugfs -R 'cat /etc/motd' more.ext4
    hello

  Or have a folder to edit by hand. An ordinary user is warned of what such a folder cannot have, as owners; the tree
  remembers them:

    $ bg-flatten --dir rootfs -o rootfs.jsonl fetched.json >unpacked.json
    $ echo edited >rootfs/etc/motd
    $ bg-mkext4 -o byhand.ext4 rootfs | bg-chown --from rootfs.jsonl >byhand.json
    bg-chown: ...

  The manifest may be edited as well. What is in `image` decides what `--run` runs and in which environment:

    $ jq '.image.config.Env += ["LANG=C.UTF-8"]' seeded.json | bg-publish --replace --name tour >published.json

In a Makefile:
  Each stage is a target, its manifest is the file, and make(1) runs what is out of date:

    REF = debian:bookworm-slim
    all: web.published
    %.fetched: ; bg-fetch $(REF) >$@
    %.flat: %.fetched ; bg-flatten -f -o $*.jsonl $(FLATTEN) $< >$@
    %.disk: %.flat ; bg-mkext4 -f -o $*.ext4 $< >$@
    %.guest: %.disk ; bg-inject -f -o $*.guest.ext4 $(INJECT) $< >$@
    %.seeded: %.guest ; bg-seed -f -o $*.seed.ext4 $< >$@
    %.published: %.seeded ; bg-publish --replace --name $* $< >$@
    .DELETE_ON_ERROR:
    .SECONDARY:

  The last two lines keep what is between and drop what failed. The second run has nothing to do, and an option that
  concerns a late stage repeats none of the early ones:

    $ make -s all
    $ make -q all
    $ touch web.disk && make all INJECT=--hostname=www
    bg-inject -f -o web.guest.ext4 --hostname=www web.disk >web.guest
    bg-seed -f -o web.seed.ext4 web.guest >web.seeded
    bg-publish --replace --name web web.seeded >web.published

  The same input gives the same bytes, so a target that was made again without need differs in nothing. The folder
  examples of the sources has a Makefile for several images that stops where nothing changed.

When a stage fails:
  It says what is wrong, on a line with its own name, perhaps what helps, and prints no manifest. Its exit status says
  of which kind the failure is; the manual of each program lists those that it has:

    $ bg-mkext4 --size 5M -o small.ext4 flat.json
    bg-mkext4: error: a filesystem of 5M is too small: this tree needs ... at least
    bg-mkext4: hint: --size=...
    $ echo $?
    64

  What was there before is untouched, and nothing half made is left:

    $ ls small.ext4
    ls: cannot access 'small.ext4': No such file or directory
    $ bg-mkext4 flat.json
    bg-mkext4: error: '.../rootfs.ext4' exists
    bg-mkext4: hint: choose another name with -o, or replace it with --force

  In a pipe the stages behind it get no manifest and say that, too. So the first line counts; bash's PIPESTATUS has
  the status of each:

    $ bg-flatten -o a.jsonl missing.json | bg-mkext4 -o a.ext4 | bg-chown; echo ${PIPESTATUS[@]}
    bg-flatten: error: cannot read '.../missing.json': no such file or directory
    bg-mkext4: error: stdin is empty: no manifest came
    bg-mkext4: hint: the stage before this one failed, or printed none
    bg-chown: error: stdin is empty: no manifest came
    bg-chown: hint: the stage before this one failed, or printed none
    66 65 65

  `banger build` lets only the one speak that failed. To find out, run the stage alone on the file that the one before
  it left: that is what the manifests are kept for. `-v` tells each step and its time, `-vv` each program that is run,
  ready to be pasted. `banger build --from` and `--to` start and stop anywhere:

    $ banger build -q --from mkext4 --to chown --force flat.json | jq -r '.history[-1].tool'
    bg-chown

  `banger image pull --keep-work DIR` leaves every stage's manifest and artifact in a folder. What each message means
  that a new user is likely to meet is in banger-troubleshooting(7).

Clean up:
  What was published is removed by name, what was fetched when it gets old (`banger cache prune`), and the rest is
  this folder:

    $ banger image delete tour web
    $ cd .. && rm -r tour

See also:
  banger(1) bg-fetch(1) bg-flatten(1) bg-mkext4(1) bg-chown(1) bg-inject(1) bg-seed(1) bg-publish(1) bg-boot(1)
  banger-build(1) banger-manifest(5) banger-tree(5) banger-troubleshooting(7) banger-agent(7)
"""
