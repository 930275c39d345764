# Starts this machine's program out of the universal file. For any POSIX shell; 4096 bytes at most.
# b, c: its first block and number of blocks; h: its SHA-256; l: a file it cannot do without.
say() { echo "run: $*" >&2; }
f=$0
case $f in /*) ;; *) f=$PWD/$f ;; esac
RUN_ARCHIVE=$f
b=
case $(uname -sm) in
@PROGRAMS@
esac
export RUN_ARCHIVE RUN_PKG
# A directory that nobody else can write to.
private() {
  [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] || return 1
  case $(ls -ld "$1") in d????-??-*) ;; *) return 1 ;; esac
}
# The right SHA-256; where no tool computes it, the bytes that are in the universal file.
right() {
  case $({ sha256sum || shasum -a 256 || sha256 -q || openssl dgst -sha256 -r; } <"$1" 2>/dev/null) in
  "$h"*) ;;
  "") dd if="$f" bs=4096 skip=$b count=$c 2>/dev/null | cmp -s - "$1" ;;
  *) return 1 ;;
  esac
}
# The program that an earlier start left is a plain file of ours, and the right one.
there() {
  [ -f "$p" ] && private "$d" && [ ! -L "$p" ] && [ -O "$p" ] && [ -x "$p" ] || return 1
  right "$p" || { say "$p is not the right program: writing it again"; return 1; }
}
# Writes the program aside, checks it, renames it. 1: impossible in this place, 3: in any place.
write() (
  umask 077
  m=$(mkdir -p "$d" 2>&1) || { say "cannot use $d: ${m##*: }"; exit 1; }
  private "$d" || { say "cannot use $d: it is open to others, or theirs"; exit 1; }
  [ ! -d "$p" ] || { say "cannot use $d: $h in it is a directory"; exit 1; }
  # What old files of this kind left. Only names that are made here, only here, only plain files
  # of ours: 64 hexadecimal digits, and the same with .new.
  g=[0-9a-f][0-9a-f][0-9a-f][0-9a-f]
  g=$g$g$g$g
  g=$g$g$g$g
  find "$d/." ! -name . -prune -type f -user "$(id -u)" \
  \( -name "$g.new.*" -mtime +0 -o -name "$g" -atime +90 \) -exec rm -f {} + 2>/dev/null
  t=$(mktemp "$p.new.XXXXXX" 2>/dev/null) || t=$p.new.$$
  trap 'rm -f "$t"' EXIT
  trap 'exit 130' HUP INT TERM
  m=$(dd if="$f" of="$t" bs=4096 skip=$b count=$c 2>&1) || { say "cannot use $d: ${m%%
*}"; exit 1; }
  right "$t" || { say "$f is damaged: copy it again"; exit 3; }
  chmod 700 "$t"
  [ -x "$t" ] || { say "cannot use $d: programs may not run there (noexec)"; exit 1; }
  mv -f "$t" "$p" || exit 1
)
if [ "$b" ] && [ -e "$l" ]; then
  x=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  u=run-$(id -u)
  for w in there write; do
    for d in "${x:+$x/run}" "${TMPDIR:-/tmp}/$u" "/dev/shm/$u"; do
      [ "$d" ] || continue
      p=$d/$h
      $w && exec "$p" "$@"
      [ $? = 3 ] && exit 1
    done
  done
  say "no place for the program: set XDG_CACHE_HOME to a directory of yours with $((c * 4)) KB free"
  exit 1
fi
case $(tail -c22 "$f" | head -c4) in
"@ZIP_END@") ;;
*) say "$f is cut short: copy it again"; exit 1 ;;
esac
for y in python3 python; do
  command -v $y >/dev/null && exec $y "$f" "$@"
done
say "nothing inside for $(uname -sm), and no python3 (with NumPy) to run it with"
exit 1
