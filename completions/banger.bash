# Written by `make docs`; edit the program's docstring instead.
# shellcheck shell=bash

# Sets options, argument and value: what program $1 takes, and what may stand for the value of its option $2.
_banger_about() {
  options='' argument=any value=''
  case $1 in
    bg-fetch)
      options='--platform= --pull= --offline --verify --inspect --list-tags --mirror= --plain-http= --ca-file= --cert-file= --key-file= --stall= --creds= --creds-stdin --max-layer= --max-image= --initrd= --modules= --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
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
      options='--layer= --exclude= --tar= --dir= --manifest= --verify --limit-entries= --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
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
      options='--size= --free= --minimal --inodes= --no-journal --features= --label= --uuid= --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
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
      options='--check --from= --map-uid= --map-gid= --set= --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
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
      options='--ssh-key= --file= --hostname= --enable= --disable= --first-boot= --keep-host-keys --no-agent --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
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
      options='--home= --flatten-nested --size= --require --directory= --output= --force --path --quiet --progress= --help --version -v' argument=file
      case $2 in
        --home) value='file' ;;
        -s | --size) value='any' ;;
        -C | --directory) value='folder' ;;
        -o | --output) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-publish)
      options='--name= --replace --move --kernel-ref= --kernel-file= --initrd= --modules= --offline --no-kernel --kernel --path --quiet --progress= --help --version -v' argument=file
      case $2 in
        --name) value='any' ;;
        --kernel-ref) value='file' ;;
        --kernel-file) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    bg-boot)
      options='--image= --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --command= --exec= --user= --cwd= --console --rm --detach --no-start --path --quiet --progress= --help --version -v' argument=file
      case $2 in
        --image) value='any' ;;
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
        --kernel-ref) value='file' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='any' ;;
        --timeout) value='any' ;;
        --command) value='any' ;;
        --exec) value='any' ;;
        --user) value='any' ;;
        --cwd) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    banger)
      options='--quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image pull')
      options='--name= --replace --size= --platform= --pull= --offline --kernel-ref= --kernel= --initrd= --modules= --keep-work= --json --quiet --progress= --help --version -v' argument=file
      case $2 in
        --name) value='any' ;;
        --size) value='any' ;;
        --platform) value='any' ;;
        --pull) value='words always missing never' ;;
        --kernel-ref) value='file' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --keep-work) value='folder' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger image list')
      options='--available --json --names --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel pull')
      options='--name= --force --offline --json --quiet --progress= --help --version -v' argument=file
      case $2 in
        --name) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel list')
      options='--available --json --names --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel show')
      options='--json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel import')
      options='--name= --from= --kernel= --initrd= --modules= --force --json --quiet --progress= --help --version -v' argument=any
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
      options='--force --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger kernel catalog')
      options='--json --names --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm run')
      options='--image= --pull= --detach --rm --user= --cwd= --tty --no-tty --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --quiet --progress= --help --version -v' argument=any
      case $2 in
        --image) value='image' ;;
        --pull) value='words missing never' ;;
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
        --kernel-ref) value='file' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='any' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm create')
      options='--image= --pull= --no-start --name= --vmm= --cpus= --memory= --disk= --work-disk= --net= --nat --publish= --env= --ssh-key= --git-identity= --read-only --run --kernel-ref= --kernel= --initrd= --modules= --append= --offline --jail --limit-disk= --limit-iops= --limit-net= --wait= --timeout= --keep --quiet --progress= --help --version -v' argument=any
      case $2 in
        --image) value='image' ;;
        --pull) value='words missing never' ;;
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
        --kernel-ref) value='file' ;;
        --kernel) value='file' ;;
        --initrd) value='file' ;;
        --modules) value='folder' ;;
        --append) value='any' ;;
        --limit-disk) value='any' ;;
        --limit-iops) value='any' ;;
        --limit-net) value='any' ;;
        --wait) value='any' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm start')
      options='--all --wait= --timeout= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --wait) value='any' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm stop')
      options='--all --timeout= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm restart')
      options='--all --timeout= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm kill')
      options='--all --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm delete')
      options='--force --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm prune')
      options='--force --dry-run --json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm list')
      options='--running --json --names --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm show')
      options='--quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm set')
      options='--cpus= --memory= --disk= --work-disk= --nat= --quiet --progress= --help --version -v' argument=any
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
      options='--json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm ports')
      options='--json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm health')
      options='--json --timeout= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm exec')
      options='--env= --user= --cwd= --tty --no-tty --quiet --progress= --help --version -v' argument=any
      case $2 in
        --env) value='any' ;;
        --user) value='any' ;;
        --cwd) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm ssh')
      options='--user= --identity= --ssh-option= --timeout= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --user) value='any' ;;
        --identity) value='file' ;;
        --ssh-option) value='any' ;;
        --timeout) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm cp')
      options='--archive --quiet --progress= --help --version -v' argument=file
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger vm logs')
      options='--follow --lines= --vmm --quiet --progress= --help --version -v' argument=any
      case $2 in
        -n | --lines) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger ssh-config')
      options='--install --uninstall --file= --connect= --quiet --progress= --help --version -v' argument=any
      case $2 in
        --file) value='file' ;;
        --connect) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger cache list')
      options='--json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger cache prune')
      options='--keep= --dry-run --json --quiet --progress= --help --version -v' argument=any
      case $2 in
        --keep) value='any' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger build')
      options='--from= --to= --directory= --force --name= --size= --platform= --pull= --offline --kernel-ref= --keep-manifests --quiet --progress= --help --version -v' argument=file
      case $2 in
        --from) value='words fetch flatten mkext4 chown inject seed publish boot' ;;
        --to) value='words fetch flatten mkext4 chown inject seed publish boot' ;;
        -C | --directory) value='folder' ;;
        --name) value='any' ;;
        --size) value='any' ;;
        --platform) value='any' ;;
        --pull) value='words missing always never' ;;
        --kernel-ref) value='file' ;;
        --progress) value='words auto always never json' ;;
      esac
      ;;
    'banger doctor')
      options='--json --online --quiet --progress= --help --version -v' argument=any
      case $2 in
        --progress) value='words auto always never json' ;;
      esac
      ;;
  esac
}

# Prints the words of one kind that begin with $2.
_banger_words() {
  local kind=${1%% *} rest=${1#* }
  case $kind in
    folder) compgen -d -- "$2" ;;
    file) compgen -f -- "$2" ;;
    image) compgen -W "$(banger image list --names 2>/dev/null)" -- "$2" ;;
    words) compgen -W "$rest" -- "$2" ;;
  esac
}

_banger_commands='image pull
image list
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
build
doctor'

# Sets name to the program that the words before the cursor call, or group to the first of a command's two words.
_banger_name() {
  local word found=() nl=$'
'
  name=${COMP_WORDS[0]##*/} group=''
  [[ $name == banger ]] || return
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* ]] || found+=("$word")
  done
  if [[ $nl$_banger_commands$nl == *"$nl${found[0]-} ${found[1]-}$nl"* ]]; then
    name="banger ${found[0]} ${found[1]}"
  elif [[ $nl$_banger_commands$nl == *"$nl${found[0]-}$nl"* ]]; then
    name="banger ${found[0]}"
  else
    group=${found[0]-}
  fi
}

_banger() {
  local name group options argument value cur prev
  _banger_name
  cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  _banger_about "$name" "$prev"
  if [[ -n $value ]]; then
    mapfile -t COMPREPLY < <(_banger_words "$value" "$cur")
    [[ $value == folder || $value == file ]] && compopt -o filenames
  elif [[ -n $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(sed -n "s/^$group //p" <<<"$_banger_commands")" -- "$cur")
  elif [[ $name == banger && $cur != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(cut -d ' ' -f 1 <<<"$_banger_commands" | sort -u)" -- "$cur")
  elif [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
  else
    mapfile -t COMPREPLY < <(_banger_words "$argument" "$cur")
    compopt -o filenames
  fi
}

complete -F _banger bg-fetch bg-flatten bg-mkext4 bg-chown bg-inject bg-seed bg-publish bg-boot banger
