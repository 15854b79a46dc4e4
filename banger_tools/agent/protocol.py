r"""banger-agent: what the host and the agent in a guest say to each other

Description:
  The agent is the program `banger-vsock-agent` in the guest; where an image has no init, banger's own starts it. It
  answers HTTP/1.1 to the host, and to nobody else. bg-boot(1) and banger(1) use it for everything that they do
  inside a machine; any other client may, too.

  Every connection is served by a process of its own. Requests may follow each other on one connection, which is
  closed after 60 seconds of silence. JSON goes both ways in UTF-8; a byte of a name, an argument or a program that is
  no UTF-8 stands in it as an escape from \udc80 to \udcff, as Python's surrogateescape has it.

  The agent trusts the host entirely: it runs as root, and who may connect may do anything in the guest.

Transports:
  AF_VSOCK, port 10240. The agent accepts connections of the host (CID 2); those from inside the guest, by loopback or
  by the guest's own CID, are closed without a byte. Firecracker gives the host a Unix socket for it: send
  `CONNECT 10240` and a newline, read one line that begins with `OK`, and what follows is the connection. With QEMU's
  vhost-vsock device the host connects to the guest's CID. Any user of the host can do that, so the guest config of
  such a machine holds a token, another one for each start: `TOKEN`, a space, the token and a newline have to come
  within 10 seconds and before anything else. There is no answer to it; anything else is closed without a byte. It is
  `process.token` in the machine's vm.json, which only its owner can read.

  virtio-serial ports whose names begin with `banger.agent.` and a number, for hosts without vsock. Each port carries
  one connection at a time. Its stream is not reset when the host's side is opened anew, hence a framing:

    7D X          in data: the byte X XOR 20; so are 7D and 7E sent
    7E H TOKEN 7E from the host: a new connection; TOKEN is 32 hex digits, lower case
    7E A TOKEN 7E from the guest: the answer; whatever came before it belongs to an older connection
    7E E 7E       either way: the end of the stream in this direction

  The host repeats its message, with the same token, until it hears the answer: some of it may have been lost, or
  taken for the end of a message that was cut off. A new token ends the connection that was there before, and its
  command.

  A Unix socket, for tests and for looking around: `banger-guest agent --listen-unix PATH`. An agent started so
  refuses to end the machine and to set its clock, unless `--system` is given, too. It asks for the token of the guest
  config as on AF_VSOCK; `--config FILE` names another one than /run/banger/config.json.

Requests:
  Bodies of POST are JSON of known length (no chunks) of at most 1 MiB. A body that is empty will not do where one is
  described as needed. Answers are JSON objects but where another thing is said. A refusal is an object with `error`,
  a sentence.

GET /healthz:
  Answers `name` (banger-agent), `version`, `boot_id` (another one after each boot), `uptime` in seconds, `ready` and
  `first_boot_pending`.

  `ready` is true in the first answer already: banger's init starts the agent, or the init of the image that does,
  when the root file system, the work disk, the host's name and the network are as the host asked. It does not wait for
  the services of the image's own init. `first_boot_pending` is true as long as the image still has to install
  something at its first boot, such as sshd, or when that failed and will be tried at the next boot.

GET /ports:
  Answers `ports`, an array of those that listen, TCP and UDP, IPv4 and IPv6, at most 1024: `protocol` (tcp or udp),
  `address`, `port`, and `pid` and `program` where they are known.

GET /stats:
  Answers `memory` (total, free, available, swap_total and swap_free in bytes), `load` (three numbers), `cpus`, and
  `disks`, an array of `path`, `device`, `type`, `size`, `free`, `available` (in bytes), `inodes` and `inodes_free`.

POST /exec:
  Runs a command. Its body:

    argv    array of strings; the first is looked for in PATH unless it has a slash
    env     array of NAME=VALUE, added to the image's environment
    cwd     folder to start in, / if it is not given
    user    NAME, UID, NAME:GROUP, UID:GID; root if it is not given
    tty     true: on a terminal of its own, whose output is stdout alone
    rows    of the terminal, 24 if it is not given
    cols    of the terminal, 80 if it is not given
    stdin   true: the client will send input; else the command reads its end

  Only `argv` is needed. The answer is status 101, and from then on both sides send frames:

    byte 0       type
    bytes 1-3    zero
    bytes 4-7    length of the payload, big-endian, at most 65536
    bytes 8-     payload

  The types are:

    0  to the guest    input; an empty one is its end
    1  from the guest  output
    2  from the guest  error output
    3  from the guest  the end: {"status": N}, or {"signal": S, "status": 128+S}
    4  to the guest    one byte, the number of a signal for the command's process group
    5  to the guest    rows and columns of the terminal, 16 bits each, big-endian
    6  from the guest  32 bits, big-endian: so many more bytes of input were taken

  A client may send up to 256 KiB of input beyond what was taken; behind more than that, signals would not be heard.
  After the frame of type 3 the guest closes the connection. All output of the command itself comes before it; a
  process that was left in the background is not waited for.

  A command that cannot be started ends with status 127 when it is not there and 126 for any other reason, which is
  in its error output: so it is for an unknown user or folder, too. When the client closes its side of the
  connection, be it only for writing, or sends a frame that is malformed, the command's process group gets SIGHUP
  and two seconds later SIGKILL.

PUT /files?path=FOLDER:
  The body is a tar archive, in chunks or of known length: POSIX pax, ustar or GNU's. It is unpacked below the folder,
  which is made if it is missing; no link and no name leads out of it. Owners (as numbers), modes, times of files,
  hard links, devices and extended attributes (records SCHILY.xattr, file capabilities and POSIX ACLs among them) are
  kept; what has no ACL in the archive has none afterwards. What cannot be kept is an error. Files that are there are
  replaced, and those before the error stay.

  Answers `entries`, their number. The guest's kernel must be Linux 5.6 or newer.

GET /files?path=PATH:
  Answers with a tar archive, in chunks, of a file or a folder with all that is below it on the same file system;
  names in it begin with the last one of the path. It keeps what PUT takes; sockets are left out. An archive whose
  last chunk does not come is not whole. In both requests, the path is absolute and percent-encoded.

POST /sync:
  Answers when all file systems have written everything to their disks.

POST /time:
  Sets the clock, as is needed after a snapshot was restored. The body is a number of seconds since 1970, perhaps with
  a fraction, or an object with `seconds` and perhaps `microseconds`. A time that cannot be now is refused: the year
  2200 and later, or one before the machine started as if it were 1970. Answers `seconds`, the new time.

POST /shutdown:
  Ends the machine. The body may hold `mode`: graceful, which is the way of the machine's init and the default, or now,
  which ends all processes, writes everything and powers off. Answers before it begins.

Statuses:
  400  The request, its body or an archive is malformed or makes no sense
  403  The guest does not let the agent do it: a read-only file system, or an agent without --system
  404  There is no such request, or no such file
  405  The request has another method
  411  A JSON body must tell its length
  413  A JSON body is larger than 1 MiB
  431  The head is larger than 16 KiB, or its path is longer than 4095 bytes
  501  A transfer encoding other than chunked, or what the guest's kernel cannot do
  503  The guest is short of something: memory, or processes
  507  A disk of the guest is full

Limits:
  There are at most 256 connections; those beyond it are closed at once. A tar entry may have 1 MiB of extended
  headers, and names of 4095 bytes.

Examples:
  Here `agent.sock` is a Unix socket that leads to the agent. For a machine of Firecracker, whose vsock socket is
  v.sock, this makes one:

    $ printf '(echo CONNECT 10240; socat -u - -) | socat -t 1 - UNIX:v.sock | (read ok; socat -u - -; kill $$)' >connect
    $ socat UNIX-LISTEN:agent.sock,fork EXEC:'sh connect' &

  For one of QEMU with a vhost-vsock device, whose CID is 3, in the folder of its vm.json:

    jq -r '"TOKEN " + .process.token' vm.json >token
    printf '(cat token; socat -u - -) | socat -t 1 - VSOCK-CONNECT:3:10240' >connect
    socat UNIX-LISTEN:agent.sock,fork EXEC:'sh connect' &

  How the machine is:

    $ curl --unix-socket agent.sock http://guest/healthz
    $ curl --unix-socket agent.sock http://guest/ports
    $ curl --unix-socket agent.sock http://guest/stats

  A folder out of the guest, and a file into it:

    $ curl --unix-socket agent.sock 'http://guest/files?path=/etc/ssl' | tar -t
    $ tar -c --numeric-owner connect | curl --unix-socket agent.sock -T - 'http://guest/files?path=/tmp/banger-agent'

  A command, and the frames that it answers with:

    $ body='{"argv": ["echo", "hello"]}'
    $ printf 'POST /exec HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s' ${#body} "$body" >request
    $ socat -t 1 STDIO,ignoreeof UNIX:agent.sock <request | od -c

  The host's time, and everything onto the disks:

    $ curl --unix-socket agent.sock -d "$(date +%s.%N)" http://guest/time
    $ curl --unix-socket agent.sock -d '' http://guest/sync

  The end of the machine:

    $ curl --unix-socket agent.sock -d '{"mode": "graceful"}' http://guest/shutdown

See also:
  banger(1) bg-boot(1) bg-inject(1) curl(1) socat(1) tar(5) vsock(7)
"""
