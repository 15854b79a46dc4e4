# Written by `make docs`; edit the program's docstring instead.
# shellcheck shell=bash

# Sets options, arguments, endless and value: what program $1 takes, and what may stand for the value of its option $2.
_banger_about() {
  options='' arguments=() endless=0 value=''
  case $1 in
    bg-fetch)
      options='--platform= --pull= --offline --verify --inspect --list-tags --mirror= --plain-http= --ca-file= --cert-file= --key-file= --stall= --creds= --creds-stdin --max-layer= --max-image= --initrd= --modules= --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --platform) value='any' ;;
        --pull) value='any' ;;
        --mirror) value='any' ;;
        --plain-http) value='any' ;;
        --ca-file) value='file' ;;
        --cert-file) value='file' ;;
        --key-file) value='file' ;;
        --stall) value='any' ;;
        --creds) value='any' ;;
        --max-layer) value='any' ;;
        --max-image) value='any' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-flatten)
      options='--layer= --exclude= --tar= --dir= --manifest= --verify --limit-entries= --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --layer) value='file' ;;
        --exclude) value='any' ;;
        --tar) value='file' ;;
        --dir) value='folder' ;;
        --manifest) value='file' ;;
        --limit-entries) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-mkext4)
      options='--size= --free= --minimal --inodes= --no-journal --features= --label= --uuid= --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        -s | --size) value='any' ;;
        --free) value='any' ;;
        --inodes) value='any' ;;
        --features) value='any' ;;
        -L | --label) value='any' ;;
        -U | --uuid) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-chown)
      options='--check --from= --map-uid= --map-gid= --set= --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --from) value='file' ;;
        --map-uid) value='any' ;;
        --map-gid) value='any' ;;
        --set) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-inject)
      options='--ssh-key= --file= --hostname= --enable= --disable= --first-boot= --keep-host-keys --no-agent --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --ssh-key) value='file' ;;
        --file) value='any' ;;
        --hostname) value='any' ;;
        --enable) value='any' ;;
        --disable) value='any' ;;
        --first-boot) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-seed)
      options='--home= --flatten-nested --size= --require --optional --directory= --output= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --home) value='file' ;;
        -s | --size) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-publish)
      options='--name= --replace --move --kernel-ref= --kernel-file= --initrd= --modules= --offline --no-kernel --kernel --bundle= --url= --tar= --qcow2= --raw= --force --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --name) value='any' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel-file) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --bundle) value='file' ;;
        --url) value='any' ;;
        --tar) value='file' ;;
        --qcow2) value='file' ;;
        --raw) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-boot)
      options='--image= --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --command= --exec= --user= --cwd= --console --rm --detach --no-start --path --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --image) value='image' ;;
        --name) value='any' ;;
        --vmm) value='words auto firecracker qemu' ;;
        --cpus) value='any' ;;
        --memory) value='any' ;;
        --disk) value='any' ;;
        --work-disk) value='any' ;;
        --net) value='words user tap none' ;;
        --publish) value='any' ;;
        --env) value='any' ;;
        --ssh-key) value='file' ;;
        --git-identity) value='any' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='words agent ssh none' ;;
        --timeout) value='any' ;;
        --command) value='any' ;;
        --exec) value='any' ;;
        --user) value='any' ;;
        --cwd) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    banger)
      options='--quiet --verbose --progress= --help --version'
      arguments=('any' 'any') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image pull')
      options='--name= --replace --size= --platform= --pull= --offline --kernel-ref= --kernel= --initrd= --modules= --no-kernel --keep-work= --json --quiet --verbose --progress= --help --version'
      arguments=('file debian-bookworm debian-trixie ubuntu-noble ubuntu-jammy alpine fedora rocky-9 arch') endless=0
      case $2 in
        --name) value='any' ;;
        --size) value='any' ;;
        --platform) value='any' ;;
        --pull) value='words always missing never' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --keep-work) value='folder' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image list')
      options='--available --json --names --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image show')
      options='--json --manifest --quiet --verbose --progress= --help --version'
      arguments=('image') endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image register')
      options='--name= --work-seed= --manifest= --kernel-ref= --kernel= --initrd= --modules= --offline --replace --json --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --name) value='any' ;;
        --work-seed) value='file' ;;
        --manifest) value='file' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image promote')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=('image') endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image rename')
      options='--quiet --verbose --progress= --help --version'
      arguments=('image' 'any') endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image verify')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=('image') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image export')
      options='--format= --url= --kernel-ref= --force --json --quiet --verbose --progress= --help --version'
      arguments=('image' 'file') endless=0
      case $2 in
        --format) value='words bundle tar qcow2 raw' ;;
        --url) value='any' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image delete')
      options='--force --quiet --verbose --progress= --help --version'
      arguments=('image') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image prune')
      options='--force --dry-run --json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel pull')
      options='--name= --force --offline --json --quiet --verbose --progress= --help --version'
      arguments=('file cloud-amd64 cloud-arm64 amd64 arm64 virtual') endless=0
      case $2 in
        --name) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel list')
      options='--available --json --names --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel show')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=('kernel') endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel import')
      options='--name= --from= --kernel= --initrd= --modules= --force --json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --name) value='any' ;;
        --from) value='folder' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel delete')
      options='--force --quiet --verbose --progress= --help --version'
      arguments=('kernel') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel catalog')
      options='--json --names --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm run')
      options='--image= --pull= --detach --rm --user= --cwd= --tty --no-tty --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --quiet --verbose --progress= --help --version'
      arguments=('any') endless=1
      case $2 in
        --image) value='image debian-bookworm debian-trixie ubuntu-noble ubuntu-jammy alpine fedora rocky-9 arch' ;;
        --pull) value='any' ;;
        --user) value='any' ;;
        --cwd) value='any' ;;
        --name) value='any' ;;
        --vmm) value='words auto firecracker qemu' ;;
        --cpus) value='any' ;;
        --memory) value='any' ;;
        --disk) value='any' ;;
        --work-disk) value='any' ;;
        --net) value='words user tap none' ;;
        --publish) value='any' ;;
        --env) value='any' ;;
        --ssh-key) value='file' ;;
        --git-identity) value='any' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='words agent ssh none' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm create')
      options='--image= --pull= --no-start --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --image) value='image debian-bookworm debian-trixie ubuntu-noble ubuntu-jammy alpine fedora rocky-9 arch' ;;
        --pull) value='any' ;;
        --name) value='any' ;;
        --vmm) value='words auto firecracker qemu' ;;
        --cpus) value='any' ;;
        --memory) value='any' ;;
        --disk) value='any' ;;
        --work-disk) value='any' ;;
        --net) value='words user tap none' ;;
        --publish) value='any' ;;
        --env) value='any' ;;
        --ssh-key) value='file' ;;
        --git-identity) value='any' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='words agent ssh none' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm start')
      options='--all --wait= --timeout= --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --wait) value='words agent ssh none' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm stop')
      options='--all --timeout= --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm restart')
      options='--all --timeout= --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm kill')
      options='--all --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm delete')
      options='--force --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm prune')
      options='--force --dry-run --json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm list')
      options='--running --json --names --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm show')
      options='--quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm set')
      options='--cpus= --memory= --disk= --work-disk= --nat= --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --cpus) value='any' ;;
        --memory) value='any' ;;
        --disk) value='any' ;;
        --work-disk) value='any' ;;
        --nat) value='words on off' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm stats')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm ports')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm health')
      options='--json --timeout= --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=1
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm exec')
      options='--env= --user= --cwd= --tty --no-tty --quiet --verbose --progress= --help --version'
      arguments=('vm' 'any') endless=1
      case $2 in
        --env) value='any' ;;
        --user) value='any' ;;
        --cwd) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm ssh')
      options='--user= --identity= --ssh-option= --timeout= --quiet --verbose --progress= --help --version'
      arguments=('vm' 'any') endless=1
      case $2 in
        --user) value='any' ;;
        --identity) value='file' ;;
        --ssh-option) value='any' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm cp')
      options='--archive --quiet --verbose --progress= --help --version'
      arguments=('remote' 'remote') endless=1
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm logs')
      options='--follow --lines= --vmm --quiet --verbose --progress= --help --version'
      arguments=('vm') endless=0
      case $2 in
        -n | --lines) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger ssh-config')
      options='--install --uninstall --file= --connect= --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --file) value='file' ;;
        --connect) value='vm' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger cache list')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger cache prune')
      options='--keep= --dry-run --json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --keep) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger prune')
      options='--dry-run --json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger build')
      options='--from= --to= --directory= --force --name= --size= --platform= --pull= --offline --kernel-ref= --keep-manifests --quiet --verbose --progress= --help --version'
      arguments=('file') endless=0
      case $2 in
        --from) value='words fetch flatten mkext4 chown inject seed publish boot' ;;
        --to) value='words fetch flatten mkext4 chown inject seed publish boot' ;;
        -C | --directory) value='folder' ;;
        --name) value='any' ;;
        --size) value='any' ;;
        --platform) value='any' ;;
        --pull) value='words missing always never' ;;
        --kernel-ref) value='kernel cloud-amd64 cloud-arm64 amd64 arm64 virtual' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger config')
      options='--json --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger doctor')
      options='--json --online --quiet --verbose --progress= --help --version'
      arguments=() endless=0
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
  esac
}

# Prints the names of one kind in the store.
_banger_names() {
  local folder=${BANGER_HOME:+$BANGER_HOME/state} path
  if [[ -z $folder ]]; then
    case ${XDG_STATE_HOME-} in
      /*) folder=$XDG_STATE_HOME/banger ;;
      *) folder=$HOME/.local/state/banger ;;
    esac
  fi
  case $1 in
    image) folder=$folder/images ;;
    kernel) folder=$folder/kernels ;;
    vm) folder=$folder/vms ;;
  esac
  for path in "$folder"/*/; do
    path=${path%/} path=${path##*/}
    [[ $path == *.staging-* || $path == *[!a-z0-9._-]* ]] || printf '%s\n' "$path"
  done
}

# Prints the words of kind $1 that begin with $2: a kind, and words that may stand there, too.
_banger_words() {
  local kind=${1%% *} rest=${1#"${1%% *}"}
  [[ -z $rest ]] || compgen -W "$rest" -- "$2"
  case $kind in
    folder) compgen -d -- "$2" ;;
    file) compgen -f -- "$2" ;;
    image | kernel | vm) compgen -W "$(_banger_names "$kind")" -- "$2" ;;
    remote)
      compgen -S : -W "$(_banger_names vm)" -- "$2"
      compgen -f -- "$2"
      ;;
  esac
}

_banger_commands='image pull
image list
image show
image register
image promote
image rename
image verify
image export
image delete
image prune
kernel pull
kernel list
kernel show
kernel import
kernel delete
kernel catalog
vm run
vm create
vm start
vm stop
vm restart
vm kill
vm delete
vm prune
vm list
vm show
vm set
vm stats
vm ports
vm health
vm exec
vm ssh
vm cp
vm logs
ssh-config
cache list
cache prune
prune
build
config
doctor'

# Sets name to the program or command that the words before the cursor call, group to the first of a command's two
# words if the second is not there yet, place to the number of arguments, and ended after a word that ends the options.
_banger_read() {
  local word value='' skip='' options arguments endless nl=$'\n'
  name=${COMP_WORDS[0]##*/} group='' place=0 ended=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ $word == = ]]; then
      skip=1
    elif [[ -n $skip ]]; then
      skip=''
    elif [[ $word == -- && -z $ended ]]; then
      ended=1
    elif [[ $word == -?* && -z $ended ]]; then
      _banger_about "$name" "$word"
      [[ -z $value ]] || skip=1
    elif [[ $name != banger ]]; then
      ((place += 1))
    elif [[ $nl$_banger_commands$nl == *"$nl${group:+$group }$word$nl"* ]]; then
      name="banger ${group:+$group }$word" group=''
    else
      group=${group:+$group }$word
    fi
  done
}

_banger_offer() {
  mapfile -t COMPREPLY < <(_banger_words "$1" "$cur")
  case $1 in
    folder* | file*) compopt -o filenames ;;
    remote*) compopt -o nospace ;;
  esac
}

_banger() {
  local name group place ended options arguments endless value cur prev
  _banger_read
  cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  [[ -z $ended ]] || prev=''
  _banger_about "$name" "$prev"
  if [[ -n $value ]]; then
    _banger_offer "$value"
  elif [[ $cur == -* && -z $ended && -z $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
  elif [[ -n $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(sed -n "s/^$group //p" <<<"$_banger_commands")" -- "$cur")
  elif [[ $name == banger ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(cut -d ' ' -f 1 <<<"$_banger_commands" | sort -u)" -- "$cur")
  elif ((place < ${#arguments[@]})); then
    _banger_offer "${arguments[place]}"
  elif ((endless)); then
    _banger_offer "${arguments[-1]}"
  fi
}

complete -F _banger bg-fetch bg-flatten bg-mkext4 bg-chown bg-inject bg-seed bg-publish bg-boot banger
